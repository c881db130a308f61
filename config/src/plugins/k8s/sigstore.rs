//! `sigstore`: signatures of the images that workloads run.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::decode::{Section, Strictness, no_hint};

/// SPIRE: `sigstore` of WorkloadAttestor `k8s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sigstore {
    /// Issuer → subjects (SPIRE: `allowed_identities`).
    pub allowed_identities: BTreeMap<String, Vec<String>>,
    /// SPIRE: `skipped_images`.
    pub skipped_images: Vec<String>,
    /// SPIRE: `rekor_url`.
    pub rekor_url: Option<String>,
    /// SPIRE: `ignore_sct`.
    pub ignore_sct: bool,
    /// SPIRE: `ignore_tlog`.
    pub ignore_tlog: bool,
    /// SPIRE: `ignore_attestations`.
    pub ignore_attestations: bool,
    /// Registry → credential (SPIRE: `registry_credentials`).
    pub registry_credentials: BTreeMap<String, RegistryCredential>,
}

/// How to log in to a registry. Its debug form does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryCredential {
    /// SPIRE: `username`.
    pub username: String,
    /// SPIRE: `password`.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredential").field("username", &self.username).finish_non_exhaustive()
    }
}

pub(super) fn read(section: Section<'_>) -> Option<Sigstore> {
    if !section.is_present() {
        return None;
    }
    let sigstore = Sigstore {
        allowed_identities: allowed_identities(&section),
        skipped_images: section.texts("skipped_images").into_iter().map(|text| text.value).collect(),
        rekor_url: section.text("rekor_url").map(|url| url.value),
        ignore_sct: section.is_set("ignore_sct"),
        ignore_tlog: section.is_set("ignore_tlog"),
        ignore_attestations: section.is_set("ignore_attestations"),
        registry_credentials: registry_credentials(&section),
    };
    section.finish(Strictness::Ignore, "sigstore", no_hint);
    Some(sigstore)
}

fn allowed_identities(section: &Section<'_>) -> BTreeMap<String, Vec<String>> {
    let issuers = section.block("allowed_identities");
    let mut identities = BTreeMap::new();
    for (issuer, subjects) in issuers.entries() {
        let subjects = issuers.texts_of(&issuer.name, subjects).into_iter().map(|text| text.value);
        identities.insert(issuer.name.clone(), subjects.collect());
    }
    identities
}

fn registry_credentials(section: &Section<'_>) -> BTreeMap<String, RegistryCredential> {
    let registries = section.block("registry_credentials");
    let mut credentials = BTreeMap::new();
    for (registry, value) in registries.entries() {
        let objects = registries.objects(&registry.name, value);
        let credential = Section::new(&registry.name, objects, Some(registry.line), section.report());
        let text = |key| credential.text(key).map(|text| text.value).unwrap_or_default();
        let credential =
            RegistryCredential { username: text("username"), password: Zeroizing::new(text("password")) };
        credentials.insert(registry.name.clone(), credential);
    }
    credentials
}
