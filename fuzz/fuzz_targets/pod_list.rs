//! Any text is a pod list or is refused, whatever pieces it arrives in. Reading a list again shares every pod of the
//! first one.
#![no_main]

use std::io::{self, Read};

use attestors::workload::k8s::{Pods, parse_pods};

/// A reader that returns a few bytes at a time.
struct Drops<'a>(&'a [u8], usize);

impl Read for Drops<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(self.0.len()).min(out.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let none = Pods::default();
    let whole = parse_pods(data, &none);
    let step = data.first().map_or(1, |first| usize::from(first % 7) + 1);
    let before = whole.as_ref().ok();
    let dropped = parse_pods(Drops(data, step), before.unwrap_or(&none));
    assert_eq!(whole.is_ok(), dropped.is_ok());
    if let (Some(whole), Ok(dropped)) = (before, dropped) {
        assert!(dropped.same_as(whole));
    }
});
