//! `/debug/pprof/` over HTTP, for programs on this machine.
//!
//! Any process that shares the agent's network reaches the port. So profiles of the CPU are limited in time, one is made
//! at a time, those of the heap wait for their turn, and a page of another site cannot read them (the `Host` header, against
//! DNS rebinding).

use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, info, warn};

use super::{Error, cpu, heap};
use crate::http1::{self, Turn};

/// Serves profiles for ever. A port that cannot be had is logged, and the agent goes on.
pub(super) async fn serve(port: u16) {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
    let listener = match TcpListener::bind(&addresses[..]).await {
        Ok(listener) => listener,
        Err(reason) => {
            warn!(error = %reason, port, "Unable to serve profiling server");
            return;
        }
    };
    let bound = listener.local_addr().unwrap_or(addresses[0]);
    info!(address = %bound, "Serving profiles");
    let (slots, turn) = (Arc::new(Semaphore::new(CONNECTIONS)), Turn::default());
    loop {
        let (stream, slot) = http1::accept(&listener, &slots, |_| ()).await;
        let turn = turn.clone();
        tokio::spawn(async move {
            let turn = &turn;
            let respond = |request| answer(turn, request);
            if let Err(reason) = http1::converse_for(LIFE, stream, HEADER_LIMIT, respond).await {
                debug!(error = %reason, "Connection of a profiler's reader ended");
            }
            drop(slot);
        });
    }
}

async fn answer(turn: &Turn, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !http1::is_this_host(named, "localhost") {
        return refuse(StatusCode::FORBIDDEN, "Ask for profiles by the address of this machine.\n");
    }
    let asked = asked(request.uri().path(), request.uri().query().unwrap_or_default());
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    if !is_read && asked != Asked::Names {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "Profiles can only be read.\n");
    }
    match asked {
        Asked::Index => respond(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        Asked::CommandLine => {
            respond(StatusCode::OK, "text/plain; charset=utf-8", command_line(env::args_os()))
        }
        Asked::Names => {
            read_off(request.into_body()).await;
            respond(StatusCode::OK, "text/plain; charset=utf-8", NO_NAMES)
        }
        Asked::Cpu(time) => profile("profile", record(time).await),
        Asked::Heap => profile("heap", turn.take(dump_heap()).await),
        Asked::Refused(status, words) => refuse(status, words),
    }
}

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Index,
    CommandLine,
    /// The names of the functions at addresses, which `go tool pprof` asks for with POST. It gives up if it is refused.
    Names,
    Cpu(Duration),
    Heap,
    Refused(StatusCode, &'static str),
}

fn asked(path: &str, query: &str) -> Asked {
    let seconds = query.split('&').find_map(|part| part.strip_prefix("seconds="));
    match path.strip_prefix("/debug/pprof").map(|name| name.trim_start_matches('/')) {
        Some("") => Asked::Index,
        Some("cmdline") => Asked::CommandLine,
        Some("symbol") => Asked::Names,
        Some("profile") => cpu_for(seconds),
        Some("heap") if seconds.is_some() => Asked::Refused(StatusCode::BAD_REQUEST, NO_DIFFERENCE),
        Some("heap") => Asked::Heap,
        Some("goroutine" | "threadcreate" | "block" | "mutex" | "trace" | "allocs") => {
            Asked::Refused(StatusCode::NOT_FOUND, OF_GO)
        }
        _ => Asked::Refused(StatusCode::NOT_FOUND, "There is /debug/pprof/.\n"),
    }
}

/// What is no positive number means the usual time, as in Go.
fn cpu_for(seconds: Option<&str>) -> Asked {
    let digits = seconds.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.map(|text| text.parse().unwrap_or(u64::MAX)) {
        None | Some(0) => Asked::Cpu(USUAL_TIME),
        Some(seconds) if seconds <= LONGEST_TIME.as_secs() => Asked::Cpu(Duration::from_secs(seconds)),
        Some(_) => Asked::Refused(StatusCode::BAD_REQUEST, TOO_LONG),
    }
}

/// Reads a body that is not needed, so that its sender can send all of it, and then hears the answer.
async fn read_off(mut body: Incoming) {
    let mut left = ADDRESSES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(length) else { return };
        left = rest;
    }
}

/// Samples the CPU on a thread of its own, because that takes as long as the caller wishes. It ends at once when the caller
/// goes away.
async fn record(time: Duration) -> Result<Vec<u8>, Error> {
    let (give, given) = oneshot::channel();
    let (caller, gone) = mpsc::channel();
    let work = move || {
        let _ = give.send(cpu::record(time, &gone));
    };
    let started = thread::Builder::new().name("cpu-profile".to_owned()).spawn(work);
    started.map_err(|reason| Error::Cpu(reason.into()))?;
    let profile = given.await;
    drop::<mpsc::Sender<()>>(caller);
    profile.unwrap_or(Err(Error::Busy))
}

async fn dump_heap() -> Result<Vec<u8>, Error> {
    let dumped = tokio::task::spawn_blocking(heap::profile).await;
    dumped.unwrap_or_else(|reason| Err(Error::Heap(reason.into())))
}

/// The arguments of the process with NULs between them, as Go has them, without the join token.
fn command_line(arguments: impl Iterator<Item = OsString>) -> Vec<u8> {
    let (mut line, mut is_token) = (Vec::new(), false);
    for argument in arguments {
        if !line.is_empty() {
            line.push(0);
        }
        let bytes = argument.as_bytes();
        let name = bytes.strip_prefix(b"-").map(|name| name.strip_prefix(b"-").unwrap_or(name));
        match name.and_then(|name| name.strip_prefix(b"joinToken")) {
            _ if is_token => line.extend_from_slice(HIDDEN),
            Some([b'=', ..]) => {
                line.extend_from_slice(b"-joinToken=");
                line.extend_from_slice(HIDDEN);
            }
            _ => line.extend_from_slice(bytes),
        }
        is_token = name == Some(b"joinToken") && !is_token;
    }
    line
}

fn profile(name: &'static str, made: Result<Vec<u8>, Error>) -> Response<Full<Bytes>> {
    match made {
        Ok(profile) => {
            let mut response = respond(StatusCode::OK, "application/octet-stream", profile);
            let file = match name {
                "heap" => HeaderValue::from_static("attachment; filename=\"heap\""),
                _ => HeaderValue::from_static("attachment; filename=\"profile\""),
            };
            response.headers_mut().insert(header::CONTENT_DISPOSITION, file);
            response
        }
        Err(reason) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")),
    }
}

/// An error whose words `go tool pprof` prints, because it has the header of Go's.
fn refuse(status: StatusCode, words: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = respond(status, "text/plain; charset=utf-8", words);
    response.headers_mut().insert(HeaderName::from_static("x-go-pprof"), HeaderValue::from_static("1"));
    response
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

const INDEX: &str = "<!doctype html>\n<html lang=\"en\">\n<title>finial: profiles</title>\n<ul>\n\
    <li><a href=\"/debug/pprof/profile?seconds=30\">profile</a>: where the time on the CPU goes, for some seconds\n\
    <li><a href=\"/debug/pprof/heap\">heap</a>: what allocated the memory in use, sampled\n\
    <li><a href=\"/debug/pprof/cmdline\">cmdline</a>: the command line\n</ul>\n\
    <p>Read them with go tool pprof and a copy of finial that has symbols.</p>\n</html>\n";
const NO_NAMES: &str = "num_symbols: 0\n";
const OF_GO: &str = "This is a profile of Go's runtime, which finial does not have. \
    There are /debug/pprof/profile (CPU) and /debug/pprof/heap; metrics have the rest.\n";
const TOO_LONG: &str = "A profile takes 300 seconds at most.\n";
const NO_DIFFERENCE: &str =
    "finial has no difference of two heaps: leave seconds out, and give pprof the first one as -base.\n";
const HIDDEN: &[u8] = b"(hidden)";
/// Nothing is loaded, framed or kept.
const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];
/// The most bytes of addresses that are read: many times those of a profile.
const ADDRESSES: usize = 1024 * 1024;
/// How long the CPU is sampled if nothing is said, as in Go.
const USUAL_TIME: Duration = Duration::from_secs(30);
const LONGEST_TIME: Duration = Duration::from_secs(300);
/// The longest life of a connection: the longest profile, and a minute to read it.
const LIFE: Duration = Duration::from_secs(360);
/// The most connections at one time.
const CONNECTIONS: usize = 8;
/// How long a client may take to send the head of a request (SPIRE, `ReadHeaderTimeout`).
const HEADER_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let cpu = |seconds| Asked::Cpu(Duration::from_secs(seconds));
        assert_eq!(asked("/debug/pprof/", ""), Asked::Index);
        assert_eq!(asked("/debug/pprof/cmdline", ""), Asked::CommandLine);
        assert_eq!(asked("/debug/pprof/symbol", ""), Asked::Names);
        assert_eq!(asked("/debug/pprof/heap", "gc=1"), Asked::Heap);
        for (query, expected) in [
            ("", 30),
            ("seconds=0", 30),
            ("seconds=", 30),
            ("seconds=-5", 30),
            ("seconds=x", 30),
            ("x=1&seconds=1", 1),
            ("seconds=300", 300),
        ] {
            assert_eq!(asked("/debug/pprof/profile", query), cpu(expected), "{query}");
        }
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for (path, query, expected) in [
            ("/debug/pprof/profile", "seconds=301", StatusCode::BAD_REQUEST),
            ("/debug/pprof/profile", "seconds=99999999999999999999999", StatusCode::BAD_REQUEST),
            ("/debug/pprof/heap", "seconds=1", StatusCode::BAD_REQUEST),
            ("/debug/pprof/goroutine", "", StatusCode::NOT_FOUND),
            ("/debug/pprof/trace", "seconds=1", StatusCode::NOT_FOUND),
            ("/debug/pprof/x", "", StatusCode::NOT_FOUND),
            ("/", "", StatusCode::NOT_FOUND),
            ("/metrics", "", StatusCode::NOT_FOUND),
        ] {
            let Asked::Refused(status, words) = asked(path, query) else { panic!("{path}") };
            assert_eq!(status, expected, "{path}");
            assert_eq!(words.contains("Go's runtime"), path.contains("goroutine") || path.contains("trace"));
        }
    }

    #[test]
    fn the_join_token_is_in_no_command_line() {
        let line = |words: &[&str]| {
            String::from_utf8(command_line(words.iter().map(OsString::from))).unwrap().replace('\0', " ")
        };
        assert_eq!(line(&["f", "run", "-joinToken", "s", "-x", "y"]), "f run -joinToken (hidden) -x y");
        assert_eq!(line(&["f", "run", "--joinToken=s"]), "f run -joinToken=(hidden)");
        assert_eq!(
            line(&["f", "-joinTokenFile", "p", "-joinToken", "-joinToken"]),
            "f -joinTokenFile p -joinToken (hidden)"
        );
    }
}
