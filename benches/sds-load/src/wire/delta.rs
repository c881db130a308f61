//! Requests and responses of DeltaSecrets.

use std::hash::{DefaultHasher, Hasher as _};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    Fields, GRPC_HEADER, Malformed, Message, NodeIn, Requests, Response, SECRET_TYPE, nested, put_error,
    put_field,
};

impl Requests {
    /// The requests of a delta stream for one name.
    pub(crate) fn delta(name: &str, node_in: NodeIn, node: Bytes) -> Self {
        let mut tail = BytesMut::new();
        put_field(&mut tail, TYPE_URL, SECRET_TYPE.as_bytes());
        put_field(&mut tail, RESOURCE_NAMES_SUBSCRIBE, name.as_bytes());
        Self { node_in, node, names_and_type: tail.freeze(), delta: Some(name.to_owned()) }
    }

    /// The first request: the name, and the version that the client has, if it has one.
    pub(super) fn delta_first(&self, name: &str, with_node: bool, version: &[u8]) -> Message {
        let mut tail = BytesMut::from(&*self.names_and_type);
        if !version.is_empty() {
            let mut entry = BytesMut::new();
            put_field(&mut entry, 1, name.as_bytes());
            put_field(&mut entry, 2, version);
            put_field(&mut tail, INITIAL_RESOURCE_VERSIONS, &entry);
        }
        self.message(before(), NODE, with_node, tail)
    }

    pub(super) fn delta_answer(&self, with_node: bool, nonce: &[u8], error: Option<&str>) -> Message {
        let mut tail = BytesMut::new();
        put_field(&mut tail, TYPE_URL, SECRET_TYPE.as_bytes());
        put_field(&mut tail, RESPONSE_NONCE, nonce);
        put_error(&mut tail, ERROR_DETAIL, error);
        self.message(before(), NODE, with_node, tail)
    }
}

/// Room for the message's length.
fn before() -> BytesMut {
    let mut fields = BytesMut::with_capacity(GRPC_HEADER + 32);
    fields.put_bytes(0, GRPC_HEADER);
    fields
}

/// Reads a `DeltaDiscoveryResponse`. The version is that of its first resource.
pub(crate) fn response(message: &Bytes) -> Result<Response, Malformed> {
    let mut response = Response::default();
    let mut content = DefaultHasher::new();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            2 => {
                content.write(nested(field.bytes, 2)?);
                if response.name.is_none() {
                    response.name = Some(message.slice_ref(nested(field.bytes, 3)?));
                    response.version = message.slice_ref(nested(field.bytes, 1)?);
                }
            }
            5 => response.nonce = message.slice_ref(field.bytes),
            _ => {}
        }
    }
    response.content = content.finish();
    Ok(response)
}

/// Field numbers of `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
const NODE: u64 = 1;
const TYPE_URL: u64 = 2;
const RESOURCE_NAMES_SUBSCRIBE: u64 = 3;
const INITIAL_RESOURCE_VERSIONS: u64 = 5;
const RESPONSE_NONCE: u64 = 6;
const ERROR_DETAIL: u64 = 7;

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn requests_have_the_fields_of_their_protocol() {
        let requests = Requests::delta("web", NodeIn::Once, Bytes::from_static(b"node"));
        let fields = |mut message: Message| {
            let bytes = message.copy_to_bytes(message.remaining()).slice(GRPC_HEADER..);
            let fields: Vec<_> = Fields(&bytes).map(|field| field.unwrap().number).collect();
            fields
        };
        assert_eq!(fields(requests.first(b"")), [NODE, TYPE_URL, RESOURCE_NAMES_SUBSCRIBE]);
        let again = [NODE, TYPE_URL, RESOURCE_NAMES_SUBSCRIBE, INITIAL_RESOURCE_VERSIONS];
        assert_eq!(fields(requests.first(b"7")), again);
        assert_eq!(fields(requests.answer(b"7", b"n", Some("no"))), [TYPE_URL, RESPONSE_NONCE, ERROR_DETAIL]);
    }

    #[test]
    fn a_response_is_read() {
        let (mut resource, mut message) = (BytesMut::new(), BytesMut::new());
        put_field(&mut resource, 1, b"7");
        put_field(&mut resource, 3, b"web");
        put_field(&mut resource, 2, b"secret");
        put_field(&mut message, 2, &resource);
        put_field(&mut message, 5, b"abcd");
        let read = response(&message.freeze()).unwrap();
        assert_eq!(
            (&*read.version, &*read.nonce, read.name.as_deref()),
            (&b"7"[..], &b"abcd"[..], Some(&b"web"[..]))
        );
    }
}
