//! Table tests of the language, and properties that any text has.

use proptest::prelude::*;

use super::{Kind, MAX_BYTES, MAX_DEPTH, Object, SyntaxErrorKind, Value, parse};

fn value(text: &str) -> Kind {
    let object = parse(&format!("k = {text}\n")).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(object.items.len(), 1, "{text}");
    object.items[0].value.kind.clone()
}

fn text_of(text: &str) -> String {
    match value(text) {
        Kind::Text(text) => text,
        other => panic!("{text}: {other:?}"),
    }
}

/// The tree without lines, as HCL.
fn printed(text: &str) -> String {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .to_string()
        .replace('\n', " ")
        .trim()
        .to_owned()
}

#[test]
fn strings() {
    for (text, expected) in [
        (r#""""#, ""),
        (r#""a b""#, "a b"),
        (r#""\"\\\n\t\a""#, "\"\\\n\t\u{7}"),
        (r#""\x41\101\u00e9\U0001F600""#, "AAé😀"),
        (r#""\xc3\xa9""#, "é"),
        (r#""${a "b" \n {x}} c""#, "${a \"b\" \\n {x}} c"),
        ("\"${a\nb}\"", "${a\nb}"),
        (r#""$x $$ {}""#, "$x $$ {}"),
        ("\"# // /*\"", "# // /*"),
    ] {
        assert_eq!(text_of(text), expected, "{text}");
    }
}

#[test]
fn heredocs() {
    for (text, expected) in [
        ("<<EOF\na\n b\nEOF", "a\n b\n"),
        ("<<EOF\r\na\r\nEOF\r\n", "a\n"),
        ("<<EOF\nEOF", ""),
        ("<<EOF\n\\n \"${x}\n  EOF", "\\n \"${x}\n  "),
        ("<<-EOF\n    a\n      b\n    EOF", "a\n  b\n"),
        ("<<-EOF\n  a\n b\n  EOF", "  a\n b\n"),
        ("<<EOF\nEOFX\nXEOF\nEOF", "EOFX\nXEOF\n"),
    ] {
        assert_eq!(text_of(text), expected, "{text:?}");
    }
}

#[test]
fn numbers_and_bools() {
    for text in ["0", "10", "-10", "0x1F", "-0xff", "0755"] {
        assert_eq!(value(text), Kind::Integer(text.to_owned()));
    }
    for text in ["0.5", "-1.5", "1e5", "1.5e-3", ".5", "089.5"] {
        assert_eq!(value(text), Kind::Float(text.to_owned()));
    }
    assert_eq!(value("true"), Kind::Bool(true));
    assert_eq!(value("false"), Kind::Bool(false));
}

#[test]
fn blocks_lists_and_comments() {
    for (text, expected) in [
        ("", ""),
        ("# a\n// b\n/* c\n * d */", ""),
        ("a = 1 b = 2", r#""a" = 1 "b" = 2"#),
        ("a = 1,\nb = 2,", r#""a" = 1 "b" = 2"#),
        ("a { b = 1 }", r#""a" = { "b" = 1 }"#),
        ("a = { b = 1 }", r#""a" = { "b" = 1 }"#),
        ("\"a\" \"b\" c { }", r#""a" = { "b" = { "c" = { } } }"#),
        ("a = [1, \"b\", [true], {c = 2},]", r#""a" = [1, "b", [true, ], { "c" = 2 }, ]"#),
        ("a = [ # x\n 1 /* y */ ] // z", r#""a" = [1, ]"#),
        ("a-b.c_1 = 1\nÄ = 2", r#""a-b.c_1" = 1 "Ä" = 2"#),
        ("a=#x\n1", r#""a" = 1"#),
        ("a = 1 a = 2", r#""a" = 1 "a" = 2"#),
        ("\u{feff}a = 1", r#""a" = 1"#),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn json() {
    for (text, expected) in [
        ("{}", ""),
        (" \n{\"a\": 1, \"b\": -2.5e3}", r#""a" = 1 "b" = -2.5e3"#),
        ("{\"a\": {\"b\": [true, null, \"c\"]}}", r#""a" = { "b" = [true, "", "c", ] }"#),
        ("{\"a\": [1,],}", r#""a" = [1, ]"#),
        (r#"{"a": "\u00e9\ud83d\ude00\/\n${x}"}"#, "\"a\" = \"é😀/\\u000a\\x24{x}\""),
        (r#"{"a": "\ud83d"}"#, "\"a\" = \"\u{fffd}\""),
        (r#"{"a": "\ud83dx\ud83d\u0041"}"#, "\"a\" = \"\u{fffd}x\u{fffd}\""),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn lines_are_kept() {
    let object = parse("\n\na = 1\nb {\n  c = [\n    1]\n}\n").unwrap();
    assert_eq!(object.items[0].key.line, 3);
    assert_eq!(object.items[1].key.line, 4);
    let Kind::Object(inner) = &object.items[1].value.kind else { panic!() };
    assert_eq!(inner.items[0].value.line, 5);
    let object = parse("{\n\"a\":\n1}").unwrap();
    assert_eq!((object.items[0].key.line, object.items[0].value.line), (2, 3));
}

#[test]
fn errors_say_where_and_what() {
    for (text, expected) in [
        ("a = \"b", "line 1, column 5: literal not terminated"),
        ("a = \"b\nc\"", "line 1, column 5: literal not terminated"),
        ("a = 'b'", "line 1, column 5: illegal character '\\''"),
        ("a: 1", "line 1, column 2: illegal character ':'"),
        (
            "a",
            "line 1, column 2: key 'a' expected start of object ('{') or assignment ('='), but found the end",
        ),
        ("a = 10m", "line 1, column 8: key 'm' expected start of object"),
        ("a b = 1", "line 1, column 5: key 'a' has a label"),
        ("a = }", "line 1, column 5: expected a value, but found '}'"),
        ("a {\n b = 1", "line 2, column 7: the block that begins in line 1 is not closed"),
        ("a = [1", "line 1, column 7: the list that begins in line 1 is not closed"),
        ("a = [1 2]", "line 1, column 8: error parsing list, expected comma"),
        ("}", "line 1, column 1: expected a key, but found '}'"),
        ("/* x", "line 1, column 1: comment not terminated"),
        ("/ x", "line 1, column 1: expected '/' for comment"),
        ("a = 089", "line 1, column 5: illegal octal number"),
        ("a = 0x", "line 1, column 7: illegal number"),
        ("a = 1e", "line 1, column 7: illegal number"),
        ("a = -", "line 1, column 5: illegal character '-'"),
        ("a = \"\\q\"", "line 1, column 7: illegal char escape"),
        ("a = \"\\xff\"", "line 1, column 5: the escapes of this string are not UTF-8"),
        ("a = \"\\777\"", "line 1, column 7: illegal char escape"),
        ("a = <EOF", "line 1, column 5: invalid heredoc"),
        ("a = <<\nx", "line 1, column 5: invalid heredoc"),
        ("a = <<EOF x\nEOF", "line 1, column 5: invalid heredoc"),
        ("a = <<EOF\nb", "line 1, column 5: heredoc not terminated"),
        ("{\"a\" 1}", "line 1, column 6: JSON: expected ':'"),
        ("{\"a\": 1 \"b\": 2}", "line 1, column 9: JSON: expected ',' or '}'"),
        ("{a: 1}", "line 1, column 2: JSON: expected a key in double quotes"),
        ("{\"a\": nul}", "line 1, column 7: JSON: expected a value"),
        ("{\"a\": 01}", "line 1, column 7: illegal number"),
        ("{\"a\": [1}", "line 1, column 9: JSON: expected ',' or ']'"),
        ("{\"a\": 1", "line 1, column 1: the block that begins in line 1 is not closed"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn limits_come_before_work() {
    let deep = |levels: usize| format!("{}{}", "a {".repeat(levels), "}".repeat(levels));
    assert!(parse(&deep(MAX_DEPTH)).is_ok());
    for text in [
        deep(MAX_DEPTH + 1),
        format!("a = {}", "[".repeat(100_000)),
        format!("a {} {{}}", "b ".repeat(100_000)),
        format!("{{\"a\":{}", "[".repeat(100_000)),
        format!("{{\"a\":{}", "{\"a\":".repeat(100_000)),
    ] {
        assert_eq!(parse(&text).unwrap_err().kind, SyntaxErrorKind::TooDeep);
    }
    let long = "#".repeat(MAX_BYTES + 1);
    assert_eq!(parse(&long).unwrap_err().kind, SyntaxErrorKind::TooLarge);
}

#[test]
fn debug_form_shows_no_values() {
    let debug = format!("{:?}", parse("join_token = \"hush\" list = [\"hush\"] n = 12345").unwrap());
    assert!(!debug.contains("hush") && !debug.contains("12345"), "{debug}");
}

fn reread(kind: Kind) -> Object {
    let text = format!("k = {}", Value { line: 1, kind });
    parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{{{text}"));
    }

    #[test]
    fn text_that_looks_like_hcl_is_read_or_refused(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "a", "\"b\"", "=", "{", "}", "[", "]", ",", "1", "0x", "true", "<<E\n", "\nE\n",
                "\"${", "}\"", "\\", "#", "/*", "*/", "\n", ":", "null", " ", "-", ".", "e",
            ]),
            0..60,
        ),
    ) {
        let _ = parse(&tokens.concat());
    }

    #[test]
    fn strings_survive_printing(text in any::<String>()) {
        let object = reread(Kind::Text(text.clone()));
        prop_assert_eq!(&object.items[0].value.kind, &Kind::Text(text));
    }

    #[test]
    fn numbers_and_bools_survive_printing(number in any::<i64>(), float in -1e9_f64..1e9, flag in any::<bool>()) {
        let float = format!("{float:?}");
        for kind in [Kind::Integer(number.to_string()), Kind::Float(float), Kind::Bool(flag)] {
            let object = reread(kind.clone());
            prop_assert_eq!(&object.items[0].value.kind, &kind);
        }
    }

    #[test]
    fn printing_and_reading_are_inverse(text in "[ab={}\\[\\],\"1\n ]{0,80}") {
        if let Ok(object) = parse(&text) {
            let once = object.to_string();
            let again = parse(&once).map(|object| object.to_string());
            prop_assert_eq!(again, Ok(once));
        }
    }
}

#[test]
fn what_comes_after_json_is_not_read() {
    assert_eq!(parse("{ \"a\": 1 }\n} garbage"), parse("{ \"a\": 1 }"));
}
