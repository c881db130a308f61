//! Registration entries, and the JSON file that holds them.
//!
//! The file is what `spire-server entry create -data FILE` reads:
//!
//! ```json
//! {"entries": [{
//!     "entry_id": "front",
//!     "spiffe_id": "spiffe://example.org/frontend",
//!     "parent_id": "spiffe://example.org/ns/spire/sa/spire-agent-front",
//!     "selectors": [{"type": "k8s", "value": "ns:yelb"}, {"type": "k8s", "value": "sa:default"}],
//!     "x509_svid_ttl": 60,
//!     "dns_names": ["frontend.yelb"],
//!     "federates_with": ["spiffe://other.org"]
//! }]}
//! ```
//!
//! Only `spiffe_id`, `parent_id` and `selectors` are needed; the other keys are the fields of [`Entry`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::server::Error;

/// A registration entry. Nothing is checked here: an agent is sent what a test puts in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Made by the server where it is empty.
    #[serde(rename = "entry_id", default)]
    pub id: String,
    /// The identity.
    pub spiffe_id: String,
    /// Who may have it: an agent's ID, a node alias, or `spiffe://<td>/spire/server` for an alias itself.
    pub parent_id: String,
    /// What a caller must have, all of it.
    pub selectors: Vec<Selector>,
    /// Seconds; 0 is the server's default.
    #[serde(default)]
    pub x509_svid_ttl: i32,
    /// Seconds; 0 is the server's default.
    #[serde(default)]
    pub jwt_svid_ttl: i32,
    /// DNS names in the certificate.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Trust domains, with or without `spiffe://`.
    #[serde(default)]
    pub federates_with: Vec<String>,
    /// May administer the server.
    #[serde(default)]
    pub admin: bool,
    /// Is a server of its own.
    #[serde(default)]
    pub downstream: bool,
    /// Goes to an SVID store.
    #[serde(default)]
    pub store_svid: bool,
    /// What the identity is for.
    #[serde(default)]
    pub hint: String,
    /// Seconds since the epoch; 0 is never. The entry is not removed at that time.
    #[serde(rename = "entryExpiry", default)]
    pub expires_at: i64,
    /// Kept by the server: 0 when created, one more with each update.
    #[serde(default)]
    pub revision_number: i64,
    /// Kept by the server where it is 0: seconds since the epoch.
    #[serde(default)]
    pub created_at: i64,
    /// Sent when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_attributes: Option<AdditionalAttributes>,
}

impl Entry {
    /// An entry with selectors as `type:value`.
    pub fn new<'a>(
        spiffe_id: impl Into<String>,
        parent_id: impl Into<String>,
        selectors: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            spiffe_id: spiffe_id.into(),
            parent_id: parent_id.into(),
            selectors: selectors.into_iter().map(Selector::parse).collect(),
            ..Self::default()
        }
    }

    /// The entry with that ID.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// What tells two entries without an ID apart.
    pub(crate) fn same_subject(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id
            && self.parent_id == other.parent_id
            && self.selectors == other.selectors
    }

    /// Equal but for what the server keeps.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let kept =
            |entry: &Self| Self { id: String::new(), revision_number: 0, created_at: 0, ..entry.clone() };
        kept(self) == kept(other)
    }
}

/// One selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// `unix`, `k8s`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `uid:1000`, `ns:default`, …
    pub value: String,
}

impl Selector {
    /// From `type:value`.
    pub fn parse(text: &str) -> Self {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        Self { kind: kind.to_owned(), value: value.to_owned() }
    }
}

/// What came later than the other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdditionalAttributes {
    /// The agent makes the X.509-SVID only when it is asked for.
    #[serde(default)]
    pub disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs carry an ID of their own.
    #[serde(default)]
    pub jwt_svid_include_jti: bool,
}

/// Reads the entries of a file; see the [module](self) for the format.
pub fn read(path: &Path) -> Result<Vec<Entry>, Error> {
    #[derive(Deserialize)]
    struct File {
        entries: Vec<Entry>,
    }
    let text = std::fs::read(path).map_err(|source| Error::EntriesFile { path: path.to_owned(), source })?;
    let file: File = serde_json::from_slice(&text)
        .map_err(|source| Error::EntriesJson { path: path.to_owned(), source })?;
    Ok(file.entries)
}
