use http::Request;
use http_body_util::StreamBody;
use tokio_stream::iter;

use tonic::Code;

use super::super::table::{RequestMessage, unimplemented};
use super::*;
use crate::telemetry::names;

const ONE: Method<()> =
    Method::unimplemented("One", Shape::Unary(10), &names::GET_INFO, |_, _, _| unimplemented("no"));
const SERVICES: &[Service<()>] = &[
    Service {
        name: "a.B",
        header: None,
        offered: |()| true,
        connections: None,
        methods: &[
            ONE,
            Method::unimplemented("Many", Shape::ServerStreaming(10), &names::GET_INFO, |_, _, _| {
                unimplemented("no")
            }),
        ],
    },
    Service { name: "a.Off", header: None, offered: |()| false, connections: None, methods: &[ONE] },
];
const WITH_HEADER: &[Service<()>] =
    &[Service { name: "a.B", header: Some("sure"), offered: |()| true, connections: None, methods: &[ONE] }];

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The HTTP status, gRPC code and message of a refused request.
fn refused(method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let response =
        judge(&head(method, path, headers), SERVICES, &(), Instant::now()).map(drop).unwrap_err().response();
    let status = Status::from_header_map(response.headers()).unwrap();
    (response.status().as_u16(), (status.code() as i32).to_string(), status.message().to_owned())
}

/// Method, path and headers of a request; expected HTTP status, gRPC code and message.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, &'a str);

const TYPE: (&str, &str) = ("content-type", "application/grpc");

#[test]
fn heads_are_judged_in_grpc_go_s_order() {
    let timeout = |value| [TYPE, ("grpc-timeout", value)];
    let cases: &[Case<'_>] = &[
        ("POST", "/a.B/One", &[], 415, "3", "invalid gRPC request content-type \"\""),
        (
            "GET",
            "/a.B/One",
            &[("content-type", "application/json")],
            415,
            "3",
            "invalid gRPC request content-type \"application/json\"",
        ),
        (
            "POST",
            "/a.B/One",
            &[("content-type", "application/grpc-web")],
            415,
            "3",
            "invalid gRPC request content-type \"application/grpc-web\"",
        ),
        (
            "GET",
            "/a.B/One",
            &[TYPE],
            405,
            "13",
            "Received a HEADERS frame with :method \"GET\" which should be POST",
        ),
        (
            "POST",
            "/a.B/One",
            &timeout("5"),
            400,
            "13",
            "malformed grpc-timeout: transport: timeout string is too short: \"5\"",
        ),
        (
            "POST",
            "/a.B/One",
            &timeout("123456789S"),
            400,
            "13",
            "malformed grpc-timeout: transport: timeout string is too long: \"123456789S\"",
        ),
        (
            "POST",
            "/a.B/One",
            &timeout("5s"),
            400,
            "13",
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"5s\"",
        ),
        (
            "POST",
            "/a.B/One",
            &timeout("-5S"),
            400,
            "13",
            "malformed grpc-timeout: strconv.ParseUint: parsing \"-5\": invalid syntax",
        ),
        ("POST", "/a.B/Nope", &timeout("0n"), 200, "4", "context deadline exceeded"),
        ("POST", "/a.B/One", &timeout("1n"), 200, "4", "context deadline exceeded"),
        ("POST", "/a.B", &[TYPE], 200, "12", "malformed method name: \"/a.B\""),
        ("POST", "/x/One", &[TYPE], 200, "12", "unknown service x"),
        ("POST", "/a.B/Nope", &[TYPE], 200, "12", "unknown method Nope for service a.B"),
        ("POST", "/a.B/One?x=y", &[TYPE], 200, "12", "unknown method One?x=y for service a.B"),
        ("POST", "/a.B/One/", &[TYPE], 200, "12", "unknown service a.B/One"),
        (
            "POST",
            "/a.B/One",
            &[TYPE, ("grpc-encoding", "gzip")],
            200,
            "12",
            "grpc: Decompressor is not installed for grpc-encoding \"gzip\"",
        ),
    ];
    for (method, path, headers, http, code, words) in cases {
        let expected = (*http, (*code).to_owned(), (*words).to_owned());
        assert_eq!(refused(method, path, headers), expected, "{method} {path} {headers:?}");
    }
}

#[test]
fn heads_that_are_fine() {
    let now = Instant::now();
    let judged =
        |headers: &[(&str, &str)]| judge(&head("POST", "/a.B/Many", headers), SERVICES, &(), now).unwrap();
    assert_eq!(judged(&[TYPE]).method.request, Shape::ServerStreaming(10));
    for content_type in ["application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+"] {
        assert_eq!(judged(&[("content-type", content_type)]).deadline, None);
    }
    for (text, timeout) in [
        ("5S", Duration::from_secs(5)),
        ("20m", Duration::from_millis(20)),
        ("2H", Duration::from_secs(7200)),
        ("99999999H", LONGEST),
    ] {
        assert_eq!(judged(&[TYPE, ("grpc-timeout", text)]).deadline, Some(now + timeout), "{text}");
    }
}

/// The message names a path even if it is not valid in HTTP.
#[test]
fn odd_paths() {
    let mut head = head("POST", "/", &[TYPE]);
    head.extensions.insert(OddPath("a.B/One".to_owned()));
    let status = method(&head, SERVICES, &()).map(drop).unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "malformed method name: \"a.B/One\"")
    );
}

#[test]
fn of_two_timeouts_the_last_counts() {
    let head = head("POST", "/a.B/One", &[TYPE, ("grpc-timeout", "1n"), ("grpc-timeout", "2S")]);
    assert_eq!(timeout(&head), Ok(Some(Duration::from_secs(2))));
}

#[test]
fn words_are_those_of_grpc_go() {
    let escaped = |status: Status| {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        escape_as_grpc_go(&mut headers);
        assert_eq!(Status::from_header_map(&headers).unwrap().code(), status.code());
        headers["grpc-message"].to_str().unwrap().to_owned()
    };
    let plain = Status::unknown("a \"b\" 100% {c}? \u{e4}\n");
    assert_eq!(escaped(plain), "a \"b\" 100%25 {c}? %C3%A4%0A");
}

#[test]
fn what_is_not_protobuf_is_refused_as_by_grpc_go() {
    let refused = |shape| {
        let garbage = RequestMessage::new(Bytes::from_static(&[0xff]), shape);
        garbage.decode::<proto::health::HealthCheckRequest>().unwrap_err()
    };
    let words = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
    assert_eq!(
        (refused(Shape::Unary(1)).code(), refused(Shape::Unary(1)).message()),
        (Code::Internal, words)
    );
    let words =
        "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
    assert_eq!(refused(Shape::ServerStreaming(1)).message(), words);
}

#[test]
fn a_service_that_is_off_is_unknown() {
    assert_eq!(
        refused("POST", "/a.Off/One", &[TYPE]),
        (200, "12".to_owned(), "unknown service a.Off".to_owned())
    );
}

#[test]
fn a_header_that_a_service_asks_for() {
    let sure = |values: &[&'static str]| {
        let mut headers = vec![TYPE];
        headers.extend(values.iter().map(|value| ("sure", *value)));
        let judged = judge(&head("POST", "/a.B/One", &headers), WITH_HEADER, &(), Instant::now());
        judged.unwrap().header.is_ok()
    };
    assert!(sure(&["true"]));
    assert!(!sure(&[]) && !sure(&["True"]) && !sure(&["true", "true"]));
}

async fn read_frames(shape: Shape, frames: &[&[u8]]) -> Result<Vec<u8>, (Code, String)> {
    let frames = frames.iter().map(|frame| Ok(http_body::Frame::data(Bytes::copy_from_slice(frame))));
    let frames: Vec<Result<_, std::convert::Infallible>> = frames.collect();
    let read = read(StreamBody::new(iter(frames)), shape, |_| Ok(())).await;
    read.map(|bytes| bytes.to_vec()).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn one_message_is_read_however_it_is_cut() {
    let message = [0, 0, 0, 0, 3, 1, 2, 3];
    let (unary, many) = (Shape::Unary(10), Shape::ServerStreaming(10));
    for shape in [unary, many] {
        assert_eq!(read_frames(shape, &[&message]).await.unwrap(), [1, 2, 3]);
        assert_eq!(
            read_frames(shape, &[&message[..3], &[], &message[3..6], &message[6..]]).await.unwrap(),
            [1, 2, 3]
        );
        assert_eq!(read_frames(shape, &[&[0; 5]]).await.unwrap(), [0; 0]);
        let internal = |words: &str| Err((Code::Internal, words.to_owned()));
        assert_eq!(
            read_frames(shape, &[&[1, 0, 0, 0, 0]]).await,
            internal("grpc: compressed flag set with identity or empty encoding")
        );
        assert_eq!(
            read_frames(shape, &[&[2, 0, 0, 0, 0]]).await,
            internal("grpc: received unexpected payload format 2")
        );
        let long = "grpc: received message larger than max (11 vs. 10)".to_owned();
        assert_eq!(read_frames(shape, &[&[0, 0, 0, 0, 11]]).await, Err((Code::ResourceExhausted, long)));
    }
    // Like grpc-go: the body of a unary call is not read after its message.
    assert_eq!(read_frames(unary, &[&message, &message]).await.unwrap(), [1, 2, 3]);
    let unknown = |words: &str| Err((Code::Unknown, words.to_owned()));
    assert_eq!(read_frames(unary, &[&message[..7]]).await, unknown("unexpected EOF"));
    let internal = |words: &str| Err((Code::Internal, words.to_owned()));
    assert_eq!(read_frames(many, &[&message[..7]]).await, internal("unexpected EOF"));
    for none in [&[][..], &[&message[..4]]] {
        assert_eq!(read_frames(unary, none).await, unknown("EOF"));
        assert_eq!(read_frames(many, none).await, internal(NO_MESSAGE));
    }
    for two in [&[&message[..], &message[..]][..], &[&[message, message].concat()]] {
        assert_eq!(read_frames(many, two).await, Err((Code::Internal, TWO_MESSAGES.to_owned())));
    }
}

/// A message for which there is no room is refused.
#[tokio::test]
async fn a_message_is_charged_before_it_is_kept() {
    let body = http_body_util::Full::new(Bytes::from_static(&[0, 0, 0, 0, 3, 1, 2, 3]));
    let refused = |len| Err(Status::resource_exhausted(format!("{len} bytes")));
    let status = read(body, Shape::Unary(10), refused).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "3 bytes"));
}
