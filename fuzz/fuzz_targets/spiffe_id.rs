//! Any text is a SPIFFE ID or is refused. An ID prints as the same text, and its parts make the same ID.
#![no_main]

use identity::{SpiffeId, TrustDomain};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text, "nothing is folded");
        let (trust_domain, path) = (id.trust_domain_name(), id.path());
        assert!(path.is_empty() || path.starts_with('/') && !path.ends_with('/'));
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
        assert_eq!(SpiffeId::from_parts(trust_domain, path).as_ref(), Ok(&id));
        let trust_domain = TrustDomain::parse(trust_domain).expect("an ID's trust domain is one");
        assert!(id.is_member_of(&trust_domain));
    }
    if let Ok(trust_domain) = TrustDomain::parse(text) {
        let name = trust_domain.name();
        assert!(!name.is_empty() && text.ends_with(name));
        assert_eq!(TrustDomain::parse(&trust_domain.id()).as_ref(), Ok(&trust_domain));
        let server = trust_domain.server_id();
        assert_eq!(SpiffeId::parse(server.as_str()).as_ref(), Ok(&server));
        assert!(server.is_member_of(&trust_domain));
    }
});
