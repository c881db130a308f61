//! Reads PEM blocks as Go's `encoding/pem` does, because bundles that spire-agent reads must be read here, too: a
//! file may have any bytes between the blocks, and a block that is damaged or cut off is skipped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::chain;

/// One PEM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The text after BEGIN, such as `CERTIFICATE`.
    pub(crate) kind: String,
    /// The decoded base64.
    pub(crate) content: Vec<u8>,
}

/// The certificates in a PEM file, as Go's `CertPool.AppendCertsFromPEM` takes them: other blocks, damaged ones and what is no
/// certificate are skipped.
#[must_use]
pub fn pem_certificates(text: &[u8]) -> Vec<Vec<u8>> {
    let certificate = |block: Block| {
        (block.kind == "CERTIFICATE" && chain::is_certificate(&block.content)).then_some(block.content)
    };
    blocks(text).into_iter().filter_map(certificate).collect()
}

/// All valid blocks, in order. A byte order mark before the first is skipped (Go would miss that block).
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(line) = lines.get(next) {
        next += 1;
        let Some(kind) = marked(line, b"-----BEGIN ") else { continue };
        // A block that is cut off ends at the next mark, and what begins there is read as a block of its own.
        let Some(len) = lines[next..].iter().position(|line| line.starts_with(b"-----")) else { break };
        let body = &lines[next..next + len];
        if marked(lines[next + len], b"-----END ") == Some(kind)
            && let Some(content) = content(body)
        {
            found.push(Block { kind: String::from_utf8_lossy(kind).into_owned(), content });
            next += len + 1;
        }
    }
    found
}

/// The text between a mark and the five dashes that end its line.
fn marked<'a>(line: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(mark)?.strip_suffix(b"-----")
}

/// The base64 of all lines together, without the headers (`Key: value`) before it.
fn content(lines: &[&[u8]]) -> Option<Vec<u8>> {
    let headers = lines.iter().take_while(|line| line.contains(&b':')).count();
    let text: Vec<u8> =
        lines[headers..].concat().into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &[u8]) -> Vec<(String, String)> {
        let text_of = |block: Block| (block.kind, String::from_utf8(block.content).unwrap());
        blocks(text).into_iter().map(text_of).collect()
    }

    fn hello(kind: &str) -> (String, String) {
        (kind.to_owned(), "hello".to_owned())
    }

    const GOOD: &str = "-----BEGIN A-----\naGVs\nbG8=\n-----END A-----\n";

    #[test]
    fn a_block_is_found_whatever_is_around_it() {
        let latin1 = [b"# caf\xe9\n", GOOD.as_bytes(), b"between\n", GOOD.as_bytes(), b"after"].concat();
        assert_eq!(found(&latin1), [hello("A"), hello("A")]);
        assert_eq!(found(GOOD.replace('\n', "\r\n").as_bytes()), [hello("A")]);
        assert_eq!(found(GOOD.trim_end().as_bytes()), [hello("A")]);
        assert_eq!(
            found("-----BEGIN A-----\n\n a GVs\t\n\nbG8=\n \n-----END A-----  \n".as_bytes()),
            [hello("A")]
        );
        assert_eq!(found(format!("\u{feff}{GOOD}").as_bytes()), [hello("A")]);
        let headers = "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nX: y\n\naGVsbG8=\n-----END A-----\n";
        assert_eq!(found(headers.as_bytes()), [hello("A")]);
    }

    #[test]
    fn a_damaged_block_is_passed_over() {
        for bad in [
            "-----BEGIN A-----\n%%%\n-----END A-----\n",
            "-----BEGIN A-----\naGVsbG8\n-----END A-----\n",
            "-----BEGIN A-----\naGVs\n",
            "-----BEGIN B-----\naGVsbG8=\n-----END A-----\n",
            "-----BEGIN A\naGVsbG8=\n",
            "-----END A-----\n",
            " -----BEGIN A-----\naGVsbG8=\n",
        ] {
            assert_eq!(found(format!("{bad}{GOOD}").as_bytes()), [hello("A")], "{bad}");
            assert_eq!(found(format!("{GOOD}{bad}").as_bytes()), [hello("A")], "{bad}");
            assert_eq!(found(bad.as_bytes()), [], "{bad}");
        }
    }
}
