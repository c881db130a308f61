//! Any chain and any anchors have a verdict, and a refusal has words; what is good for one purpose is good for any, an
//! X.509-SVID's chain is a chain; and only what an anchor has signed is accepted.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use identity::chain::{Purpose, verify, verify_svid};
use identity::{Bundle, TrustDomain};

// The first byte says how many of the certificates are sent; the first of them is the leaf, the rest are anchors.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((count, mut rest)) = input.split_first() else { return };
    let mut certificates = Vec::new();
    while let Some(certificate) = element(rest) {
        certificates.push(certificate);
        rest = &rest[certificate.len()..];
    }
    let (sent, anchors) = certificates.split_at(usize::from(*count).min(certificates.len()));
    let Some((leaf, others)) = sent.split_first() else { return };
    let judge = |anchors: &[&[u8]], purpose, at| {
        let judged = verify(leaf, others.iter().copied(), anchors.iter().copied(), purpose, at);
        judged.map_err(|reason| assert!(reason.to_string().len() > 6)).is_ok()
    };
    let any = judge(anchors, Purpose::Any, at(TABLE));
    let either = judge(anchors, Purpose::ServerOrClient, at(TABLE));
    for purpose in [Purpose::Server, Purpose::Client] {
        assert!(!judge(anchors, purpose, at(TABLE)) || either, "{purpose:?}");
    }
    assert!(!either || any);
    let svid = verify_svid(sent.iter().copied(), &DOMAIN, anchors.iter().copied(), at(TABLE));
    assert!(svid.is_err() || any);
    let ours = &ROOT.x509_authorities[0].der;
    if judge(&[ours], Purpose::Any, at(OURS)) {
        assert!(leaf == ours || signed(leaf) == signed(LEAF), "somebody else is accepted");
    }
});

/// The first element, with its tag and length.
fn element(der: &[u8]) -> Option<&[u8]> {
    let (head, length) = match *der.get(1)? {
        short @ ..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(*der.get(2)?)),
        0x82 => (4, usize::from(u16::from_be_bytes([*der.get(2)?, *der.get(3)?]))),
        _ => return None,
    };
    der.get(..head + length)
}

/// What the signature of a certificate is over.
fn signed(certificate: &[u8]) -> Option<&[u8]> {
    let head = match certificate.get(1)? {
        ..=0x7f => 2,
        0x81 => 3,
        _ => 4,
    };
    element(certificate.get(head..)?)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| TrustDomain::parse("td.example").expect("a name"));
/// It has signed the leaf, and nobody has its key.
static ROOT: LazyLock<Bundle> = LazyLock::new(|| {
    Bundle::from_pem(DOMAIN.clone(), include_bytes!("../testdata/root.pem")).expect("a certificate")
});

const LEAF: &[u8] = include_bytes!("../testdata/leaf.der");
/// When the seeds are valid, which are from `identity/testdata/chains.json`.
const TABLE: u64 = 1_780_315_200;
/// When the leaf is.
const OURS: u64 = 2_000_000_000;
