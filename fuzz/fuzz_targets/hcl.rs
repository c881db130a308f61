//! Any text is read or refused, as HCL and as a configuration. Printing and reading again gives the same HCL, settings
//! that load have a trust domain and a port, and a refusal has a reason.
#![no_main]

use std::io;

use config::{Overrides, Settings, expand_env, hcl};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(object) = hcl::parse(text) {
        let printed = object.to_string();
        // Printing can make a text longer than the size limit.
        if printed.len() <= hcl::MAX_BYTES {
            let again = hcl::parse(&printed).expect("what we print can be read");
            assert_eq!(printed, again.to_string());
        }
    }
    // Every file that the text names has this text as its content.
    let read_file = |_: &std::path::Path| Ok::<_, io::Error>(text.to_owned());
    for text in [text.to_owned(), expand_env(text, |name| Some(name.to_owned()))] {
        match Settings::load(&text, &Overrides::default(), &read_file) {
            Ok(settings) => assert!(!settings.trust_domain.is_empty() && settings.server_port != 0),
            Err(errors) => assert!(!errors.to_string().is_empty(), "a refusal has a reason"),
        }
    }
});
