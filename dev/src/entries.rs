//! Registration entries and the JSON file that holds them.
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

/// A registration entry. The server checks nothing, so that a test can send any entry to an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The entry ID. If it is empty, the server makes one.
    #[serde(rename = "entry_id", default)]
    pub id: String,
    /// The SPIFFE ID of the identity.
    pub spiffe_id: String,
    /// The parent: the ID of an agent, or of a node alias. A node alias itself has `spiffe://<td>/spire/server`.
    pub parent_id: String,
    /// The selectors, all of which a caller must have.
    pub selectors: Vec<Selector>,
    /// The lifetime of X.509-SVIDs in seconds; 0 for the server's default.
    #[serde(default)]
    pub x509_svid_ttl: i32,
    /// The lifetime of JWT-SVIDs in seconds; 0 for the server's default.
    #[serde(default)]
    pub jwt_svid_ttl: i32,
    /// The DNS names in the certificate.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// The trust domains that the entry federates with, with or without `spiffe://`.
    #[serde(default)]
    pub federates_with: Vec<String>,
    /// Whether the identity may administer the server.
    #[serde(default)]
    pub admin: bool,
    /// Whether the identity is that of a downstream server.
    #[serde(default)]
    pub downstream: bool,
    /// Whether the SVID goes to an SVID store.
    #[serde(default)]
    pub store_svid: bool,
    /// The hint: tells a workload the purpose of the identity.
    #[serde(default)]
    pub hint: String,
    /// The expiry in seconds since the epoch; 0 for never. The server does not remove an expired entry.
    #[serde(rename = "entryExpiry", default)]
    pub expires_at: i64,
    /// The revision number. The server sets 0 at creation and increments it with each update.
    #[serde(default)]
    pub revision_number: i64,
    /// The creation time in seconds since the epoch. The server sets it if it is 0.
    #[serde(default)]
    pub created_at: i64,
    /// Newer attributes, sent only if they are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_attributes: Option<AdditionalAttributes>,
}

impl Entry {
    /// An entry with these selectors, each in the form `type:value`.
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

    /// This entry with another ID.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// Whether SPIFFE ID, parent and selectors are equal. They identify an entry that has no ID.
    pub(crate) fn same_subject(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id
            && self.parent_id == other.parent_id
            && self.selectors == other.selectors
    }

    /// Whether two entries are equal, except for the fields that the server sets.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let kept =
            |entry: &Self| Self { id: String::new(), revision_number: 0, created_at: 0, ..entry.clone() };
        kept(self) == kept(other)
    }
}

/// A selector of an entry or a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// The type: `unix`, `k8s`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The value: `uid:1000`, `ns:default`, …
    pub value: String,
}

impl Selector {
    /// Parses `type:value`.
    pub fn parse(text: &str) -> Self {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        Self { kind: kind.to_owned(), value: value.to_owned() }
    }
}

/// Attributes of an entry that are younger than its other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdditionalAttributes {
    /// Whether the agent fetches the X.509-SVID only when a caller asks for it.
    #[serde(default)]
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs have a `jti` claim.
    #[serde(default)]
    pub jwt_svid_include_jti: bool,
}

/// Reads the entries of a file. See the [module](self) for the format.
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
