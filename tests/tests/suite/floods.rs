//! One hostile caller, and the service that others get meanwhile. The tests count and never time; `sds-load flood`
//! measures times.
//!
//! The hostile caller writes frames that an HTTP/2 library would not make. It and the honest callers are one user, so
//! they are one group to the agent and share its limits.

use std::path::Path;

use harness::{Agent, Conf, Sds, health, sds_request, skipped, trial, x509_svid};
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{ids, register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("floods_of_calls_taken_back_end_with_enhance_your_calm", calls_taken_back),
        trial("floods_of_nacks_cost_a_few_lines_of_the_log", nacks),
        silent_connections(),
    ]
}

/// An agent with one workload, `spiffe://example.org/web`, which is every process of this user.
async fn agent() -> (dev::Server, Agent) {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    (server, agent)
}

/// Makes each kind of call once, each on its own connection.
async fn honest_calls(socket: &Path) {
    assert!(health(socket).await);
    let mut svids = x509_svid(socket).await.expect("served");
    assert_eq!(
        ids(&svids.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
    let mut sds = Sds::open(socket, sds_request(&["spiffe://example.org/web"])).await.expect("served");
    assert_eq!(sds.secrets(&["spiffe://example.org/web"]).await.expect("served").len(), 1);
}

async fn calls_taken_back() {
    let (_server, agent) = agent().await;
    let mut hostile = Hostile::greeted(&agent.socket()).await;
    for batch in 0..BATCHES {
        let first = 2 * (batch * PER_BATCH) + 1;
        let mut frames = Vec::new();
        for stream in (first..).step_by(2).take(PER_BATCH as usize) {
            frames.extend(frame(HEADERS, END_HEADERS, stream, &request(X509)));
            frames.extend(frame(RST_STREAM, 0, stream, &CANCEL));
        }
        // The write fails if the agent has closed the connection.
        let _ = hostile.socket.write_all(&frames).await;
        honest_calls(&agent.socket()).await;
    }
    let frames = hostile.until_closed().await;
    let goaways: Vec<_> = frames.iter().filter(|frame| frame.kind == GOAWAY).collect();
    let [goaway] = goaways[..] else { panic!("{goaways:?}") };
    assert_eq!(goaway.payload[4..8], ENHANCE_YOUR_CALM);
    // The agent tolerates a thousand, and a few that it answered before they were reset.
    let last = u32::from_be_bytes(goaway.payload[..4].try_into().expect("four bytes"));
    let begun = last.div_ceil(2);
    assert!((1000..=1100).contains(&begun), "{begun} of {} calls were begun", BATCHES * PER_BATCH);
}

async fn nacks() {
    let (_server, mut agent) = agent().await;
    let mut hostile = Hostile::greeted(&agent.socket()).await;
    let asked = [frame(HEADERS, END_HEADERS, 1, &request(SDS)), data(&nack(0))].concat();
    hostile.send_within_windows(&asked).await;
    // Before the caller is attested, the agent keeps only its last request.
    agent.logged("the stream is held").await;
    for sent in 0..NACKS {
        hostile.send_within_windows(&data(&nack(WORDS))).await;
        if sent % (NACKS / 10) == 0 {
            honest_calls(&agent.socket()).await;
        }
    }
    // The agent logs each NACK at DEBUG. This tells that it has read all of them. Operators do not use DEBUG.
    agent.logged_times("msg=\"Received StreamSecrets request\"", NACKS + 1).await;
    let log = agent.log();
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("Envoy reported errors")).collect();
    // Five lines in ten seconds are allowed, which means five here, unless the machine is very busy.
    assert!((1..=NACKS / 10).contains(&complaints.len()), "{} lines", complaints.len());
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 2048, "{longest} bytes in one line");
    honest_calls(&agent.socket()).await;
}

fn silent_connections() -> Trial {
    let name = "floods_of_a_thousand_silent_connections_leave_room_for_others";
    // This process holds its end of each connection, and an agent uses half of its descriptors for pidfds.
    let enough = getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, hard)| hard >= 4096);
    if enough { trial(name, silence) } else { skipped(name, "fewer than 4,096 open files") }
}

async fn silence() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    let (_server, agent) = agent().await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        let mut socket = UnixStream::connect(agent.socket()).await.expect("the backlog takes it");
        // The agent sends its SETTINGS when it has accepted a connection.
        socket.read_u8().await.expect("a connection that was accepted");
        silent.push(socket);
    }
    for _ in 0..20 {
        honest_calls(&agent.socket()).await;
    }
    drop(silent);
}

/// A connection on which a test writes frames itself.
struct Hostile {
    socket: UnixStream,
    received: Vec<u8>,
    /// The bytes of DATA that the agent accepts: on stream 1, and on the connection.
    windows: [i64; 2],
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Hostile {
    async fn greeted(socket: &Path) -> Self {
        let mut socket = UnixStream::connect(socket).await.expect("connected");
        let greeting = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
        socket.write_all(&greeting).await.expect("written");
        Self { socket, received: Vec::new(), windows: [65_535; 2] }
    }

    /// Writes frames of stream 1 one by one, and waits for room in the windows before each.
    async fn send_within_windows(&mut self, mut frames: &[u8]) {
        while let Some((head, _)) = frames.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let data = if head[3] == DATA { i64::from(length) } else { 0 };
            while self.windows.iter().any(|window| *window < data) {
                let frame = self.next().await.expect("the connection lasts");
                let more =
                    || i64::from(u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes")));
                match frame.kind {
                    // Stream 1 begins with the default window of RFC 9113, because it is opened before the agent's
                    // SETTINGS are read.
                    SETTINGS if frame.payload.len() >= 6 => self.windows[0] += more_at_first(&frame.payload),
                    WINDOW_UPDATE if frame.stream == 0 => self.windows[1] += more(),
                    WINDOW_UPDATE => self.windows[0] += more(),
                    GOAWAY | RST_STREAM => panic!("ended: {frame:?}"),
                    _ => {}
                }
            }
            self.windows.iter_mut().for_each(|window| *window -= data);
            let (frame, rest) = frames.split_at(9 + length as usize);
            self.socket.write_all(frame).await.expect("written");
            frames = rest;
        }
    }

    /// Waits for the next frame; `None` if the connection has ended.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(([a, b, c, kind, _, stream @ ..], rest)) = self.received.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if let Some(payload) = rest.get(..length) {
                    let stream = u32::from_be_bytes(*stream);
                    let frame = Frame { kind: *kind, stream, payload: payload.to_vec() };
                    self.received.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }

    async fn until_closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

/// The difference between SETTINGS_INITIAL_WINDOW_SIZE and the default window.
fn more_at_first(settings: &[u8]) -> i64 {
    let mut pairs = settings.chunks_exact(6);
    let found = pairs.find(|pair| pair[..2] == [0, 4]);
    found.map_or(0, |pair| i64::from(u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]])) - 65_535)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a gRPC request, without Huffman code and without additions to the dynamic table.
fn request(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let fields = [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// DATA frames of stream 1 with this message.
fn data(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message").to_be_bytes();
    let framed = [&[0], &length[..], message].concat();
    framed.chunks(16_384).flat_map(|part| frame(DATA, 0, 1, part)).collect()
}

/// A NACK with a text of `words` bytes. The client waits for a name that nobody has, so it has no nonce to send.
fn nack(words: usize) -> Vec<u8> {
    let mut request = sds_request(&["x"]);
    request.error_detail = Some(envoy_types::pb::google::rpc::Status {
        code: 13,
        message: "A".repeat(words),
        ..Default::default()
    });
    prost::Message::encode_to_vec(&request)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// The number of batches of calls that are reset.
const BATCHES: u32 = 15;
/// The number of calls in a batch.
const PER_BATCH: u32 = 100;
/// The number of NACKs.
const NACKS: usize = 500;
/// The bytes of text in a NACK.
const WORDS: usize = 60_000;
