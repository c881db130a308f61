use super::*;

const SET: FlagSet = FlagSet {
    name: "test",
    flags: &[
        text("a", "", "Nothing by default"),
        switch("b", "A switch"),
        old_output("form", "An old name"),
        list("list", "Texts"),
        integer("n", "A number"),
        output(),
        text("path", "/x y", "A path"),
        duration("timeout", 5, "Time to wait for a response"),
    ],
};

fn parse(line: &str) -> Result<Values, FlagError> {
    let words: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    SET.parse(&words)
}

#[test]
fn both_dashes_and_both_ways_to_give_a_value() {
    for line in [
        "-a v",
        "--a v",
        "-a=v",
        "--a=v",
        "-a u -a v",
        "-b -a=v",
        "-a v -- -a w",
        "-a v x -a w",
        "-a v - -a w",
    ] {
        assert_eq!(parse(line).unwrap().text("a"), "v", "{line}");
    }
    let values = parse("-a=x=y -path=").unwrap();
    assert_eq!((values.text("a"), values.text("path")), ("x=y", ""));
    assert_eq!(parse("-a -b").unwrap().text("a"), "-b", "a value may look like a flag");
}

#[test]
fn switches_take_a_value_only_with_an_equals_sign() {
    assert_eq!(parse("-b").unwrap().given_switch("b"), Some(true));
    assert_eq!(parse("-b=false").unwrap().given_switch("b"), Some(false));
    assert_eq!(parse("-b=T").unwrap().given_switch("b"), Some(true));
    let values = parse("-b false -a v").unwrap();
    assert_eq!((values.switch("b"), values.text("a")), (true, ""), "parsing stops at the first word");
}

#[test]
fn defaults() {
    let values = parse("").unwrap();
    assert_eq!((values.text("path"), values.given_text("path")), ("/x y", None));
    assert_eq!((values.integer("n"), values.switch("b"), values.format()), (None, false, Format::Pretty));
    assert_eq!(values.duration("timeout"), Some(Duration::from_secs(5)));
}

#[test]
fn values_of_other_kinds() {
    assert_eq!(parse("-n -0x10").unwrap().integer("n"), Some(-16));
    assert_eq!(parse("-timeout 1m1.5s").unwrap().duration("timeout"), Some(Duration::from_millis(61_500)));
    assert_eq!(parse("-timeout 0").unwrap().duration("timeout"), None);
    assert_eq!(parse("-timeout=-1s").unwrap().duration("timeout"), None);
    assert_eq!(parse("-output JSON -output json").unwrap().format(), Format::Json);
}

#[test]
fn lists_and_old_names() {
    assert_eq!(parse("-list a,b -list c,,d").unwrap().list("list"), ["c", "", "d"]);
    assert_eq!(parse("-list=").unwrap().list("list"), [""]);
    assert!(parse("").unwrap().list("list").is_empty());
    assert_eq!(parse("-form json").unwrap().format(), Format::Json);
    assert_eq!(parse("-form json -output json").unwrap().format(), Format::Json);
    let conflict = parse("-form json -output pretty").unwrap_err().to_string();
    assert!(conflict.ends_with("for flag -output: the output format has already been set to \"json\""));
}

#[test]
fn errors_are_in_gos_words() {
    for (line, expected) in [
        ("-x", "flag provided but not defined: -x"),
        ("--x=1", "flag provided but not defined: -x"),
        ("-a", "flag needs an argument: -a"),
        ("---a", "bad flag syntax: ---a"),
        ("-=a", "bad flag syntax: -=a"),
        ("-b=zz", "invalid boolean value \"zz\" for -b: parse error"),
        ("-n x", "invalid value \"x\" for flag -n: parse error"),
        ("-n=", "invalid value \"\" for flag -n: parse error"),
        ("-n 99999999999999999999", "invalid value \"99999999999999999999\" for flag -n: value out of range"),
        ("-timeout x", "invalid value \"x\" for flag -timeout: time: invalid duration \"x\""),
        ("-timeout 5", "invalid value \"5\" for flag -timeout: time: missing unit in duration \"5\""),
        (
            "-output x",
            "invalid value \"x\" for flag -output: bad formatter flag: unknown format option: \"x\"",
        ),
        (
            "-output JSON -output JSON",
            "invalid value \"JSON\" for flag -output: the output format has already been set to \"json\"",
        ),
        (
            "-output json -output pretty",
            "invalid value \"pretty\" for flag -output: the output format has already been set to \"json\"",
        ),
    ] {
        assert_eq!(parse(line).unwrap_err().to_string(), expected, "{line}");
    }
}

#[test]
fn usage_is_as_go_prints_it() {
    let expected = "Usage of test:\n  -a string\n    \tNothing by default\n  -b\n    \tA switch\n  \
                    -form value\n    \tAn old name\n  -list value\n    \tTexts\n  -n int\n    \tA number\n  \
                    -output value\n    \tDesired output format (pretty, json); default: pretty.\n  \
                    -path string\n    \tA path (default \"/x y\")\n  \
                    -timeout value\n    \tTime to wait for a response (default 5s)";
    assert_eq!(SET.usage(), expected);
}
