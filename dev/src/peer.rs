//! The identity of a client, by its certificate.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The client of a connection. Each request has it in its extensions.
#[derive(Clone)]
pub(crate) enum Peer {
    /// The client sent no certificate.
    Anonymous,
    /// The client's certificate is signed by an authority of the bundle.
    Known(Arc<Caller>),
    /// The client's certificate has no usable identity, for this reason.
    Unusable(&'static str),
}

/// The identity in a client certificate.
pub(crate) struct Caller {
    pub(crate) id: String,
    /// The serial number in decimal.
    pub(crate) serial: String,
    /// The expiry in seconds since the epoch.
    pub(crate) not_after: i64,
}

impl Peer {
    /// The client by its certificate chain, which the handshake has verified.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Self::Anonymous };
        match caller(leaf) {
            Ok(caller) => Self::Known(Arc::new(caller)),
            Err(reason) => Self::Unusable(reason),
        }
    }
}

fn caller(leaf: &[u8]) -> Result<Caller, &'static str> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "client certificate is malformed")?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let mut uris = names.iter().flat_map(|san| &san.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let id = uris.next().ok_or("client certificate has no URI SAN")?;
    if uris.next().is_some() {
        return Err("client certificate has more than one URI SAN");
    }
    Ok(Caller {
        id,
        serial: leaf.tbs_certificate.serial.to_string(),
        not_after: leaf.validity().not_after.timestamp(),
    })
}
