//! `api fetch jwt` and `api validate jwt` of both programs. A token that one agent gives is validated by either.

use std::path::{Path, PathBuf};

use harness::build_finial;
use serde_json::Value;

use super::super::agents::Agents;
use super::{CommandOutput, run_command, web};

pub(super) async fn jwt((server, real): (PathBuf, PathBuf)) {
    let programs = [build_finial(), real.clone()];
    let mut agents = Agents::both((server, real)).await;
    let sockets: Vec<PathBuf> = agents.all.iter().map(|running| running.agent.socket()).collect();
    let real = agents.all.iter().position(|running| running.whose == "spire-agent").expect("it runs");
    for socket in &sockets {
        let none = both(&programs, &["api", "fetch", "jwt", "-audience", "a"], socket).await;
        let expected = "rpc error: code = PermissionDenied desc = no identity issued";
        assert_eq!((none.code, &*none.err), (Some(1), expected));
    }
    agents.federate("other.test").await;
    agents.create(&[web()]).await;
    let [finial, real_agent] = [&sockets[1 - real], &sockets[real]];
    let (fetched, by_real) = (fetch(&programs, finial).await, fetch(&programs, real_agent).await);
    for (ours, theirs) in fetched.iter().zip(&by_real) {
        assert_eq!((ours.code, &ours.out, &ours.err), (theirs.code, &theirs.out, &theirs.err));
    }
    let tokens = [token(&programs[0], finial).await, token(&programs[1], real_agent).await];
    for token in &tokens {
        let verdict = validate(&programs, finial, token).await;
        assert_eq!(verdict, validate(&programs, real_agent, token).await);
    }
    let finial = &mut agents.all[1 - real].agent;
    finial.logged("msg=\"Failed to validate JWT\" ").await;
    finial.logged("msg=\"Successfully validated JWT\" ").await;
    let log = finial.log();
    for secret in tokens.iter().flat_map(|token| token.split('.')).chain(["somebody"]) {
        assert!(!log.contains(secret), "the log has a part of a token, or a claim");
    }
    let nobody = finial.path("nobody.sock");
    for words in
        [&["fetch", "jwt", "-audience", "a"][..], &["validate", "jwt", "-audience", "a", "-svid", "x"]]
    {
        assert_eq!(both(&programs, &[&["api"], words].concat(), &nobody).await.code, Some(1));
    }
}

/// Fetches tokens with all flags, and returns what both programs print.
async fn fetch(programs: &[PathBuf; 2], socket: &Path) -> Vec<CommandOutput> {
    let people = both(programs, &["api", "fetch", "jwt", "-audience", "a,b"], socket).await;
    let expected = "bundle(spiffe://example.org):\n\t{\n    \"keys\": [";
    assert!(people.out.contains(expected), "{}", people.out);
    let expected =
        "\nhint(spiffe://example.org/web):\n\tinternal\ntoken(spiffe://example.org/web):\n\tTOKEN\n";
    assert!(people.out.contains(expected), "{}", people.out);
    assert_eq!((people.code, &*people.err), (Some(0), ""));
    let mut outputs = vec![people];
    for (flags, code) in [
        ("-audience a -audience b -output json", 0),
        ("-audience a -format json", 0),
        ("-audience a -format json -output json -timeout 0", 0),
        ("-audience a -spiffeID spiffe://example.org/web", 0),
        ("-audience a -spiffeID spiffe://example.org/other", 1),
        ("-audience a -spiffeID rubbish", 1),
        ("-audience=", 1),
        ("", 1),
        ("-format json", 1),
        ("-audience a -format json -output pretty", 1),
        ("-audience a -output JSON -format JSON", 1),
        ("-audience a -format yaml", 1),
        ("-audience", 1),
        ("-help", 0),
    ] {
        let words: Vec<&str> = ["api", "fetch", "jwt"].into_iter().chain(flags.split_whitespace()).collect();
        let output = both(programs, &words, socket).await;
        assert_eq!(output.code, Some(code), "{flags}");
        outputs.push(output);
    }
    outputs
}

/// A token for the audiences `a` and `b`.
async fn token(program: &Path, socket: &Path) -> String {
    let words = ["api", "fetch", "jwt", "-audience", "a,b", "-output", "json"];
    let printed: Value = serde_json::from_str(&run_command(program, &words, socket).await.out).expect("JSON");
    printed[0]["svids"][0]["svid"].as_str().expect("a token").to_owned()
}

/// Validates the token in several ways, and returns what both programs print.
async fn validate(programs: &[PathBuf; 2], socket: &Path, token: &str) -> Vec<CommandOutput> {
    let (head, signature) = token.rsplit_once('.').expect("a token");
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let unsigned = format!("{head}.");
    let mut outputs = Vec::new();
    for (audience, svid, flags, code) in [
        ("a", token, "", 0),
        ("b", token, "-output json", 0),
        ("somebody", token, "", 1),
        ("a", &*forged, "-output json", 1),
        ("a", &unsigned, "", 1),
        ("a", "rubbish", "", 1),
        ("a", "", "", 1),
        ("", token, "", 1),
        ("a", token, "-output yaml", 1),
        ("a", token, "-help", 0),
    ] {
        let words = ["api", "validate", "jwt", "-audience", audience, "-svid", svid];
        let words: Vec<&str> = words.into_iter().chain(flags.split_whitespace()).collect();
        let output = both(programs, &words, socket).await;
        assert_eq!(output.code, Some(code), "{audience} {flags}: {output:?}");
        outputs.push(output);
    }
    assert!(
        outputs[0]
            .out
            .starts_with("SVID is valid.\nSPIFFE ID : spiffe://example.org/web\nClaims    : {\"aud\":[")
    );
    let expected = "SVID is not valid: expected audience in [\"somebody\"] (audience=[\"a\" \"b\"])";
    assert_eq!(outputs[2].err, expected);
    outputs
}

/// Runs both programs with these words, and checks that their outputs are the same.
async fn both(programs: &[PathBuf; 2], words: &[&str], socket: &Path) -> CommandOutput {
    let [finial, real] = programs;
    let finial = settled(run_command(finial, words, socket).await);
    assert_eq!(finial, settled(run_command(real, words, socket).await), "{words:?} at {}", socket.display());
    finial
}

/// An output without what differs each time: tokens, the random order of bundles, and the blanks that protobuf's JSON has
/// in some builds of the real agent and not in others. The real agent's help ends with an empty line.
fn settled(output: CommandOutput) -> CommandOutput {
    let mut blocks = vec![String::new()];
    for line in output.out.lines() {
        if ["token(", "hint(", "bundle("].iter().any(|start| line.starts_with(start)) {
            blocks.push(String::new());
        }
        let line = match line.split_once("Claims    : ") {
            Some(("", claims)) => format!("Claims    : {}", claims.replace(", ", ",").replace(": ", ":")),
            _ if line.starts_with("\teyJ") => "\tTOKEN".to_owned(),
            _ => without_tokens(line),
        };
        if let Some(block) = blocks.last_mut() {
            block.push_str(&line);
            block.push('\n');
        }
    }
    blocks.sort();
    CommandOutput { out: blocks.concat(), err: output.err.trim_end().to_owned(), ..output }
}

/// A line of JSON without the tokens in it.
fn without_tokens(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\"svid\":\"") else { return line.to_owned() };
    let after = rest.split_once('"').map_or("", |(_, after)| after);
    format!("{before}\"svid\":\"TOKEN\"{}", without_tokens(after))
}
