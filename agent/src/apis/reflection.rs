//! gRPC server reflection on the public socket, as in spire-agent. Clients such as `grpcurl` learn from it the services
//! and the types of their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use budget::Charge;
use bytes::Bytes;
use futures_util::stream::try_unfold;
use http2::RequestBody;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use proto::PUBLIC_SERVICES;
use proto::reflection::server_reflection_request::MessageRequest;
use proto::reflection::server_reflection_response::MessageResponse;
use proto::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use tokio_stream::Stream;
use tonic::{Code, Status};
use transport::Peer;

use super::call::{Messages, Unread};
use super::{CALL_WORK, no_room};
use crate::door::Anonymous;

/// Answers the requests of one stream one by one. `services` are the services that the socket offers.
///
/// # Errors
/// ResourceExhausted if the budget has no room for the stream.
pub(super) fn info(
    _: Anonymous,
    peer: Arc<Peer>,
    services: Vec<&'static str>,
    body: RequestBody,
) -> Result<impl Stream<Item = Result<ServerReflectionResponse, Status>> + Send + 'static, Status> {
    let charge = peer.account().charge(STREAM).map_err(no_room)?;
    let messages = Messages::new(body);
    let stream = Reflected { peer, services, messages, sent: BTreeSet::new(), _charge: charge };
    Ok(try_unfold(stream, |mut stream| async move {
        let response = stream.next().await?;
        Ok(response.map(|response| (response, stream)))
    }))
}

struct Reflected {
    peer: Arc<Peer>,
    _charge: Charge,
    services: Vec<&'static str>,
    messages: Messages<RequestBody>,
    /// Names of the files that this stream has sent, including imports. An import is sent only once.
    sent: BTreeSet<&'static str>,
}

impl Reflected {
    async fn next(&mut self) -> Result<Option<ServerReflectionResponse>, Status> {
        let message = self.messages.next(MESSAGE, |_| Ok(())).await.map_err(|reason| match reason {
            Unread::NoHead | Unread::CutShort => Status::internal("unexpected EOF"),
            Unread::Refused(status) => status,
        })?;
        let Some(message) = message else { return Ok(None) };
        self.peer.account().work(CALL_WORK);
        let request = ServerReflectionRequest::decode(message)
            .map_err(|_| Status::internal("grpc: failed to unmarshal the received message"))?;
        let asked = request.message_request.as_ref();
        let asked = asked.ok_or_else(|| Status::invalid_argument("invalid MessageRequest: <nil>"))?;
        let answer = self.answer(asked).unwrap_or_else(|unknown| {
            MessageResponse::ErrorResponse(ErrorResponse {
                error_code: Code::NotFound as i32,
                error_message: format!("not found: {unknown}"),
            })
        });
        Ok(Some(ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(answer),
        }))
    }

    /// The answer to a request. The error is a name that is unknown.
    fn answer(&mut self, asked: &MessageRequest) -> Result<MessageResponse, String> {
        match asked {
            MessageRequest::FileByFilename(name) => self.file(files().get(&**name), name),
            MessageRequest::FileContainingSymbol(symbol) => {
                let file = files().values().find(|file| file.symbols.contains(symbol));
                self.file(file, symbol)
            }
            // All files are proto3, so there are no extensions.
            MessageRequest::FileContainingExtension(asked) => Err(asked.containing_type.clone()),
            MessageRequest::AllExtensionNumbersOfType(name) => {
                let known = files().values().any(|file| file.symbols.contains(name));
                let none = ExtensionNumberResponse { base_type_name: name.clone(), extension_number: vec![] };
                known
                    .then_some(MessageResponse::AllExtensionNumbersResponse(none))
                    .ok_or_else(|| name.clone())
            }
            MessageRequest::ListServices(_) => {
                let service = |name: &&'static str| ServiceResponse { name: (*name).to_owned() };
                let services = ListServiceResponse { service: self.services.iter().map(service).collect() };
                Ok(MessageResponse::ListServicesResponse(services))
            }
        }
    }

    /// A file, and all files that it imports, directly or not, that this stream has not sent yet.
    fn file(&mut self, file: Option<&'static File>, asked: &str) -> Result<MessageResponse, String> {
        let mut waiting = vec![file.ok_or_else(|| asked.to_owned())?];
        let mut files_to_send = Vec::new();
        while let Some(file) = waiting.pop() {
            // The file that was asked for is sent in any case.
            if self.sent.insert(&file.name) || files_to_send.is_empty() {
                files_to_send.push(file.encoded.clone());
                waiting.extend(file.imports.iter().filter_map(|name| files().get(&**name)));
            }
        }
        Ok(MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: files_to_send,
        }))
    }
}

/// One `.proto` file.
#[derive(Debug)]
struct File {
    name: String,
    imports: Vec<String>,
    /// The full names of its services, methods, messages, fields and enums.
    symbols: BTreeSet<String>,
    /// The file as an encoded `FileDescriptorProto`.
    encoded: Bytes,
}

/// All files by name. They are decoded at the first request.
fn files() -> &'static BTreeMap<String, File> {
    static FILES: OnceLock<BTreeMap<String, File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let set = FileDescriptorSet::decode(PUBLIC_SERVICES).unwrap_or_default();
        set.file.iter().map(|file| (file.name().to_owned(), File::of(file))).collect()
    })
}

impl File {
    fn of(file: &FileDescriptorProto) -> Self {
        let mut symbols = BTreeSet::new();
        let package = file.package();
        for service in &file.service {
            let name = within(package, service.name());
            symbols.extend(service.method.iter().map(|method| within(&name, method.name())));
            symbols.insert(name);
        }
        symbols.extend(file.enum_type.iter().map(|kind| within(package, kind.name())));
        for message in &file.message_type {
            add_message(&mut symbols, package, message);
        }
        Self {
            name: file.name().to_owned(),
            imports: file.dependency.clone(),
            symbols,
            encoded: file.encode_to_vec().into(),
        }
    }
}

fn add_message(symbols: &mut BTreeSet<String>, scope: &str, message: &DescriptorProto) {
    let name = within(scope, message.name());
    symbols.extend(message.field.iter().map(|field| within(&name, field.name())));
    symbols.extend(message.enum_type.iter().map(|kind| within(&name, kind.name())));
    for nested in &message.nested_type {
        add_message(symbols, &name, nested);
    }
    symbols.insert(name);
}

/// The full name of `name` in the package or message `scope`.
fn within(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

/// The longest request in bytes. A request is not much more than a name.
const MESSAGE: u32 = 4 * 1024;
/// Bytes that a stream is charged for: a request, an answer with a copy of the request, and a list of services.
const STREAM: usize = 3 * MESSAGE as usize;

#[cfg(test)]
mod tests {
    use super::super::Apis as _;
    use super::super::public::Public;
    use super::*;

    #[test]
    fn every_service_of_the_public_socket_is_described() {
        for service in Public::SERVICES {
            let file = files().values().find(|file| file.symbols.contains(service.name));
            let file = file.unwrap_or_else(|| panic!("{} has no file", service.name));
            for method in service.methods {
                assert!(
                    file.symbols.contains(&format!("{}.{}", service.name, method.name)),
                    "{}",
                    method.name
                );
            }
        }
    }

    #[test]
    fn every_import_is_there() {
        for import in files().values().flat_map(|file| &file.imports) {
            assert!(files().contains_key(import), "{import}");
        }
    }
}
