//! Files that a connection to the kubelet needs: authorities, token, client certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Auth, KubeletOptions, Port};

/// The content of the files.
#[derive(Debug)]
pub(super) struct Inputs {
    read_at: Instant,
    /// The modification times of the files.
    versions: Vec<Option<SystemTime>>,
    authorities: Option<Vec<u8>>,
    certificate: Option<Certificate>,
    authorization: Option<HeaderValue>,
}

struct Certificate {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(…)")
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The file cannot be read.
    #[error("unable to load {what} {path}: {source}")]
    Read {
        /// What the file holds, in words.
        what: &'static str,
        /// The configured path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The token file holds something else than a token.
    #[error("unable to load token {0}: it is not one line of visible characters")]
    Token(PathBuf),
}

impl Inputs {
    pub(super) fn read(options: &KubeletOptions) -> Result<Self, InputsError> {
        let versions = versions(options);
        let mut inputs = Self {
            read_at: Instant::now(),
            versions,
            authorities: None,
            certificate: None,
            authorization: None,
        };
        if let Port::ReadOnly(_) = options.port {
            return Ok(inputs);
        }
        if let Some(path) = &options.ca_path {
            inputs.authorities = Some(file("kubelet CA", path)?);
        }
        match &options.auth {
            Auth::Anonymous => {}
            Auth::Token(path) => inputs.authorization = Some(bearer(path)?),
            Auth::Certificate(certificate, key) => {
                let chain = file("certificate", certificate)?;
                let key = Zeroizing::new(file("private key", key)?);
                inputs.certificate = Some(Certificate { chain, key });
            }
        }
        Ok(inputs)
    }

    pub(super) fn older_than(&self, options: &KubeletOptions) -> bool {
        self.read_at.elapsed() >= options.reload_interval.max(Duration::from_secs(1))
    }

    /// Whether a file was written since it was read.
    pub(super) fn outdated(&self, options: &KubeletOptions) -> bool {
        self.versions != versions(options)
    }

    /// Whether a connection that was opened with `other` can still be used.
    pub(super) fn same_tls(&self, other: &Self) -> bool {
        let key = |inputs: &Self| inputs.certificate.as_ref().map(|own| (own.chain.clone(), own.key.clone()));
        self.authorities == other.authorities && key(self) == key(other)
    }

    pub(super) fn authorities(&self) -> Option<&[u8]> {
        self.authorities.as_deref()
    }

    /// The client certificate's chain and key in PEM.
    pub(super) fn certificate(&self) -> Option<(&[u8], &[u8])> {
        self.certificate.as_ref().map(|own| (&*own.chain, &**own.key))
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.clone()
    }
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Self) -> bool {
        self.same_tls(other) && self.authorization == other.authorization
    }
}

fn file(what: &'static str, path: &Path) -> Result<Vec<u8>, InputsError> {
    fs::read(path).map_err(|source| InputsError::Read { what, path: path.to_owned(), source })
}

fn bearer(path: &Path) -> Result<HeaderValue, InputsError> {
    let token = Zeroizing::new(file("token", path)?);
    let mut line = Zeroizing::new(b"Bearer ".to_vec());
    line.extend_from_slice(token.trim_ascii());
    let value = HeaderValue::from_bytes(&line).ok().filter(|_| line.len() > b"Bearer ".len());
    let mut value = value.ok_or_else(|| InputsError::Token(path.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn versions(options: &KubeletOptions) -> Vec<Option<SystemTime>> {
    let auth: &[&PathBuf] = match &options.auth {
        Auth::Anonymous => &[],
        Auth::Token(token) => &[token],
        Auth::Certificate(certificate, key) => &[certificate, key],
    };
    let written = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    options.ca_path.iter().chain(auth.iter().copied()).map(written).collect()
}
