//! Who is at the other end of a connection.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// Put into the extensions of each request.
#[derive(Clone)]
pub(crate) enum Peer {
    /// No client certificate.
    Anonymous,
    /// A certificate that the bundle vouches for.
    Known(Arc<Caller>),
    /// One that names nobody, and why.
    Unusable(&'static str),
}

/// What the client certificate says.
pub(crate) struct Caller {
    pub(crate) id: String,
    /// Decimal.
    pub(crate) serial: String,
    pub(crate) not_after: i64,
}

impl Peer {
    /// From the chain that the handshake has verified.
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
