//! A client sends anything, in pieces of any size, and reads as slowly as it likes. The server's frames must be valid.
//! Towards a client that keeps the rules, the server must keep them too: windows, order, one end per stream, no GOAWAY,
//! and an answer to each call that can have one, although the connection is polled only when it was woken. The memory
//! that is kept must stay within the account's limit, and nothing may be left charged at the end.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker, ready};

use budget::Budget;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http2::{Connection, Error, Limits, RequestBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let window = 65_535 + u32::from(input.byte()) * 1000;
    let calls = Rc::<Calls>::default();
    // A turn may be as short as one frame.
    let work = 1 << (input.byte() % 32);
    let scarce = input.byte().is_multiple_of(4).then(|| 4096 << (input.byte() % 8));
    let Some(mut server) = Server::new(window, scarce.unwrap_or(PLENTY), work, &calls) else { return };
    let mut client = Client::new(window);
    // A client whose budget is scarce may be refused even if it keeps the rules.
    client.lawful = scarce.is_none();
    client.greet();
    for _ in 0..OPS {
        if input.0.is_empty() || server.over.is_some() {
            break;
        }
        act(&mut input, &mut client, &server, &calls);
        if input.0.first().is_none_or(|next| next & TOGETHER == 0) {
            turn(&mut client, &mut server, &calls);
        }
    }
    finish(client, server, &calls);
});

/// One action of the client, a call or the socket. The highest bit of the next byte joins it with the next action,
/// without a turn between them.
fn act(input: &mut Input<'_>, client: &mut Client, server: &Server, calls: &Calls) {
    match input.byte() % 24 {
        0..4 => client.open(input),
        4..8 => client.data(input),
        8 => client.trailers(input),
        9 => client.reset(input),
        10 | 11 => client.window_update(input),
        12 => client.settings(input),
        13 => client.ping(input),
        14 => client.of_no_interest(input),
        15 | 16 => calls.release(input.byte()),
        17 => calls.read_outside(usize::from(input.byte())),
        18 => server.io.borrow_mut().read_piece = input.size(),
        19 => server.io.borrow_mut().write_piece = input.size(),
        20 => server.io.borrow_mut().give_room(input.size()),
        21 => server.io.borrow_mut().room = 0,
        22 => server.io.borrow_mut().shy = input.byte().is_multiple_of(2),
        _ if input.byte() == JUNK => {
            client.lawful = false;
            let len = input.size().min(input.0.len());
            client.say.extend_from_slice(&input.0[..len]);
            input.0 = &input.0[len..];
        }
        _ => {}
    }
}

/// Delivers the client's bytes, and runs the server as long as it is woken.
fn turn(client: &mut Client, server: &mut Server, calls: &Calls) {
    loop {
        server.io.borrow_mut().bring(&std::mem::take(&mut client.say));
        server.run();
        client.hear(&std::mem::take(&mut server.io.borrow_mut().written));
        if server.over.is_some() || (client.say.is_empty() && !server.woken.0.load(SeqCst)) {
            break;
        }
    }
    assert!(calls.open.get() <= usize::try_from(STREAMS).expect("few"));
}

/// Opens all windows, reads all answers and ends all requests. Each call must then have its answer, and the connection
/// its end.
fn finish(mut client: Client, mut server: Server, calls: &Calls) {
    server.io.borrow_mut().give_room(usize::MAX / 2);
    if server.over.is_none() {
        for _ in 0..2 {
            turn(&mut client, &mut server, calls);
            calls.all_go_on();
        }
        turn(&mut client, &mut server, calls);
        client.assert_given_back();
        // The connection's window comes last, because it alone must wake the streams that wait for it.
        client.grant_streams();
        turn(&mut client, &mut server, calls);
        client.grant_connection();
    }
    for _ in 0..3 {
        turn(&mut client, &mut server, calls);
        calls.all_go_on();
    }
    turn(&mut client, &mut server, calls);
    if client.lawful {
        assert!(server.over.is_none(), "sent away");
        client.assert_answered();
        assert_eq!(calls.open.get(), client.streams.values().filter(|stream| stream.is_open()).count());
    }
    server.io.borrow_mut().close();
    turn(&mut client, &mut server, calls);
    match server.over.take().expect("it is closed") {
        Ok(()) => {}
        Err(Error::Protocol { .. }) => assert!(!client.lawful),
        Err(Error::Io(reason)) => panic!("{reason}"),
    }
    let budget = server.budget.clone();
    drop(server);
    assert_eq!(calls.open.get(), 0, "calls outlive their connection");
    assert_eq!(budget.held(), 0, "something is charged that is gone");
}

/// The fuzzer's bytes, followed by zeros without end.
struct Input<'d>(&'d [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A size: a small number, or one near the sizes of frames and windows.
    fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..160 => small.into(),
            middle @ 160..240 => usize::from(middle - 159) * 251,
            large => usize::from(large - 239) * 8192 - 9,
        }
    }
}

// The server.

type Answered = Pin<Box<dyn Future<Output = Response<Answer>>>>;
type Serve = Box<dyn FnMut(Request<RequestBody>) -> Answered>;

/// A connection, polled only when it was woken.
struct Server {
    connection: Connection<Io, Serve, Answered, Answer>,
    io: Rc<RefCell<Pipe>>,
    woken: Arc<Flag>,
    over: Option<Result<(), Error>>,
    budget: Budget,
    room: usize,
}

impl Server {
    /// Starts a server; `None` if the budget has no room even for a connection.
    fn new(window: u32, room: usize, work: u64, calls: &Rc<Calls>) -> Option<Self> {
        let io = Rc::<RefCell<Pipe>>::default();
        let calls = Rc::clone(calls);
        let serve: Serve = Box::new(move |request| Box::pin(calls.answer(request)));
        let limits = Limits { streams: STREAMS, window, headers: 4096, fields: &[] };
        let budget = Budget::new(budget::Limits { whole: room, spare: 0, group: room, account: room, work });
        let account = budget.group("").account();
        let connection = http2::serve(Io(Rc::clone(&io)), limits, account, serve).ok()?;
        // A spawned task is polled once without a wake-up.
        Some(Self { connection, io, woken: Arc::new(Flag(true.into())), over: None, budget, room })
    }

    fn run(&mut self) {
        let waker = Waker::from(Arc::clone(&self.woken));
        for polls in 0.. {
            let mut cx = Context::from_waker(&waker);
            if self.over.is_none() && !self.woken.0.load(SeqCst) && self.budget.poll_parked(&cx).is_ready() {
                self.budget.next_round();
            }
            if self.over.is_some() || !self.woken.0.swap(false, SeqCst) {
                return;
            }
            assert!(polls < POLLS, "it wakes itself without end");
            if let Poll::Ready(over) = pin!(&mut self.connection).poll(&mut cx) {
                self.over = Some(over);
            }
            assert!(self.budget.held() <= self.room);
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// The transport between client and server.
#[derive(Default)]
struct Pipe {
    coming: VecDeque<u8>,
    closed: bool,
    written: Vec<u8>,
    room: usize,
    /// The most bytes of one read or write; 0 for all. See [`piece`].
    read_piece: usize,
    write_piece: usize,
    /// Whether every other operation returns Pending and wakes its task at once.
    shy: bool,
    shied: bool,
    /// Whether the last write returned Pending. The server must then not read.
    stuck: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn bring(&mut self, bytes: &[u8]) {
        self.coming.extend(bytes);
        if !bytes.is_empty() {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    fn give_room(&mut self, more: usize) {
        self.room = self.room.saturating_add(more);
        if more > 0 {
            self.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    fn shies(&mut self, cx: &Context<'_>) -> bool {
        self.shied = self.shy && !self.shied;
        if self.shied {
            cx.waker().wake_by_ref();
        }
        self.shied
    }
}

/// The most bytes of one operation: at least a 64th of all, because smaller pieces would take too long.
fn piece(wanted: usize, all: usize) -> usize {
    if wanted == 0 { all } else { wanted.max(all / 64) }
}

struct Io(Rc<RefCell<Pipe>>);

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.borrow_mut();
        assert!(!pipe.stuck, "it reads while the client does not");
        assert!(buf.remaining() > 0);
        if pipe.shies(cx) {
            return Poll::Pending;
        }
        if pipe.coming.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let piece = piece(pipe.read_piece, pipe.coming.len());
        let len = pipe.coming.len().min(piece).min(buf.remaining());
        for byte in pipe.coming.drain(..len) {
            buf.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.borrow_mut();
        pipe.stuck = true;
        if pipe.shies(cx) {
            return Poll::Pending;
        }
        if pipe.room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.stuck = false;
        let all = bufs.iter().map(|buf| buf.len()).sum();
        let most = pipe.room.min(piece(pipe.write_piece, all));
        let before = pipe.written.len();
        for buf in bufs {
            assert!(!buf.is_empty());
            let left = most - (pipe.written.len() - before);
            pipe.written.extend_from_slice(&buf[..left.min(buf.len())]);
        }
        let len = pipe.written.len() - before;
        pipe.room -= len;
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The calls of the connection under test: how many are open, and which are held until the test releases them.
#[derive(Default)]
struct Calls {
    open: Cell<usize>,
    held: RefCell<Vec<Waker>>,
    /// How many held calls may continue.
    released: Cell<usize>,
    /// Bodies that are read outside of their calls.
    outside: RefCell<Vec<Rc<Outside>>>,
}

/// A body that another task than its call reads.
struct Outside {
    body: RefCell<Option<RequestBody>>,
    heard: Cell<usize>,
    call: RefCell<Option<Waker>>,
    woken: Arc<Flag>,
}

impl Calls {
    fn answer(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Answer>> + use<> {
        let calls = Rc::clone(self);
        async move {
            let open = Open::new(&calls);
            let path = request.uri().path().to_owned();
            let body = request.into_body();
            let kind = match &*path {
                "/echo" => Kind::Echo(body),
                "/count" => Kind::Count(body, 0),
                "/refuse" => Kind::Frames(VecDeque::new()),
                "/big" => {
                    Kind::Frames([70_000, 1, 20_000, 0, 16_384].map(|len| vec![b'b'; len].into()).into())
                }
                "/outside" => Kind::Heard(Some(calls.outside(body).await)),
                "/drop" => {
                    drop(body);
                    calls.hold().await;
                    Kind::Frames([Bytes::from_static(b"held")].into())
                }
                _ => {
                    calls.hold().await;
                    // The body is read only now.
                    Kind::Count(body, 0)
                }
            };
            let mut response = Response::new(Answer { kind, _open: open });
            if path == "/refuse" {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            response
        }
    }

    /// Waits until the call is released.
    async fn hold(&self) {
        let place = self.held.borrow().len();
        self.held.borrow_mut().push(Waker::noop().clone());
        std::future::poll_fn(|cx| {
            self.held.borrow_mut()[place] = cx.waker().clone();
            if place < self.released.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn release(&self, more: u8) {
        self.released.set((self.released.get() + usize::from(more % 4)).min(self.held.borrow().len()));
        // Calls that are not released may be woken too.
        self.held.borrow().iter().for_each(Waker::wake_by_ref);
    }

    async fn outside(&self, body: RequestBody) -> usize {
        let outside = Rc::new(Outside {
            body: RefCell::new(Some(body)),
            heard: Cell::new(0),
            call: RefCell::new(None),
            woken: Arc::new(Flag(true.into())),
        });
        self.outside.borrow_mut().push(Rc::clone(&outside));
        std::future::poll_fn(|cx| {
            *outside.call.borrow_mut() = Some(cx.waker().clone());
            if outside.body.borrow().is_some() { Poll::Pending } else { Poll::Ready(outside.heard.get()) }
        })
        .await
    }

    /// Runs the outside readers that were woken, at most this many steps each.
    fn read_outside(&self, steps: usize) {
        for outside in &*self.outside.borrow() {
            outside.run(steps);
        }
    }

    fn all_go_on(&self) {
        self.released.set(usize::MAX);
        self.held.borrow().iter().for_each(Waker::wake_by_ref);
        self.read_outside(usize::MAX);
    }
}

impl Outside {
    fn run(&self, steps: usize) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut body = self.body.borrow_mut();
        for _ in 0..steps {
            let Some(reading) = body.as_mut().filter(|_| self.woken.0.swap(false, SeqCst)) else { return };
            match pin!(reading).poll_frame(&mut Context::from_waker(&waker)) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(frame))) => {
                    self.woken.0.store(true, SeqCst);
                    self.heard.set(self.heard.get() + frame.into_data().map_or(0, |data| data.len()));
                }
                Poll::Ready(_) => {
                    *body = None;
                    self.call.borrow_mut().take().into_iter().for_each(Waker::wake);
                }
            }
        }
    }
}

/// Counts an open call, from its first poll to its drop.
struct Open(Rc<Calls>);

impl Open {
    fn new(calls: &Rc<Calls>) -> Self {
        calls.open.set(calls.open.get() + 1);
        Self(Rc::clone(calls))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

struct Answer {
    kind: Kind,
    _open: Open,
}

enum Kind {
    Echo(RequestBody),
    Frames(VecDeque<Bytes>),
    /// Reads the whole request, then answers with trailers that have its length.
    Count(RequestBody, usize),
    Heard(Option<usize>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let kind = &mut self.kind;
        if let Kind::Count(body, heard) = kind {
            while let Some(Ok(frame)) = ready!(Pin::new(&mut *body).poll_frame(cx)) {
                *heard += frame.into_data().map_or(0, |data| data.len());
            }
            *kind = Kind::Heard(Some(*heard));
        }
        Poll::Ready(match kind {
            Kind::Echo(body) => return Pin::new(body).poll_frame(cx),
            Kind::Frames(frames) => frames.pop_front().map(|data| Ok(Frame::data(data))),
            Kind::Heard(heard) => heard.take().map(|heard| Ok(Frame::trailers(heard_trailers(heard)))),
            Kind::Count(..) => unreachable!("all was heard"),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Echo(body) => body.is_end_stream(),
            Kind::Frames(frames) => frames.is_empty(),
            Kind::Count(..) => false,
            Kind::Heard(heard) => heard.is_none(),
        }
    }
}

/// Trailers with the length; empty for a length of 0.
fn heard_trailers(heard: usize) -> HeaderMap {
    (heard > 0).then(|| ("heard".parse().expect("a name"), heard.into())).into_iter().collect()
}

// The client.

/// A client, and the state that it must expect of the server.
struct Client {
    /// Bytes that are not sent yet.
    say: Vec<u8>,
    /// An incomplete frame of the server.
    partial: Vec<u8>,
    /// Whether the client has kept all rules.
    lawful: bool,
    gone_away: bool,
    streams: BTreeMap<u32, Stream>,
    next: u32,
    /// The server's receive window, of each stream and of the connection.
    window: i64,
    /// The bytes that the client may send on the connection, and those that it may receive.
    may_send: i64,
    may_come: i64,
    /// The SETTINGS_INITIAL_WINDOW_SIZE that the server has acknowledged, and the settings that it has not.
    first_window: i64,
    settings: VecDeque<Option<i64>>,
    pings: VecDeque<u8>,
    /// Whether the newest entry of the dynamic table is a field of this client.
    indexed: bool,
    /// An incomplete header block of the server: its stream, whether it ends the stream, and its bytes.
    block: Option<(u32, bool, Vec<u8>)>,
}

struct Stream {
    path: &'static str,
    sent: Vec<u8>,
    heard: Vec<u8>,
    head: bool,
    client_done: bool,
    /// How the server has ended the stream: true for END_STREAM, false for RST_STREAM; `None` if it is open.
    ended: Option<bool>,
    taken_back: bool,
    may_send: i64,
    /// The bytes that may be received in addition to the initial window.
    may_come: i64,
}

impl Stream {
    fn is_open(&self) -> bool {
        self.ended.is_none() && !self.taken_back
    }

    fn is_writable(&self) -> bool {
        self.is_open() && !self.client_done
    }
}

impl Client {
    fn new(window: u32) -> Self {
        Self {
            say: Vec::new(),
            partial: Vec::new(),
            lawful: true,
            gone_away: false,
            streams: BTreeMap::new(),
            next: 1,
            window: window.into(),
            may_send: 65_535,
            may_come: 65_535,
            first_window: 65_535,
            settings: VecDeque::new(),
            pings: VecDeque::new(),
            indexed: false,
            block: None,
        }
    }

    fn greet(&mut self) {
        self.say.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.frame(SETTINGS, 0, 0, &[]);
        self.settings.push_back(None);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.say.extend_from_slice(&[&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat());
    }

    fn open(&mut self, input: &mut Input<'_>) {
        if self.streams.values().filter(|stream| stream.is_open()).count() >= STREAMS as usize {
            return;
        }
        let path = PATHS[usize::from(input.byte()) % PATHS.len()];
        let how = input.byte();
        let (id, end) = (self.next, how & 1 != 0);
        self.next += 2;
        let mut block = self.block(path, how);
        let mut flags = if end { END_STREAM } else { 0 };
        if how & 0x40 != 0 {
            block.splice(..0, [0, 0, 0, 0, 7]);
            flags |= 0x20;
        }
        let cut = if how & 2 != 0 { 5 + usize::from(input.byte()) % 16 } else { block.len() };
        let (first, rest) = block.split_at(cut.min(block.len()));
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        self.frame(HEADERS, flags | last, id, first);
        for (place, part) in rest.chunks(7).enumerate() {
            let last = if (place + 1) * 7 >= rest.len() { END_HEADERS } else { 0 };
            self.frame(CONTINUATION, last, id, part);
        }
        let stream = Stream {
            path,
            sent: Vec::new(),
            heard: Vec::new(),
            head: false,
            client_done: end,
            ended: None,
            taken_back: false,
            may_send: self.window,
            may_come: 0,
        };
        self.streams.insert(id, stream);
    }

    /// The header block of a request, in one of several representations.
    fn block(&mut self, path: &str, how: u8) -> Vec<u8> {
        let len = u8::try_from(path.len()).expect("short");
        let into_table = if how & 4 != 0 { 0x44 } else { 0x04 };
        let mut block = [&[0x83, 0x86, into_table, len], path.as_bytes()].concat();
        self.indexed &= how & 4 == 0;
        if self.indexed && how & 8 != 0 {
            block.push(0xbe);
        }
        if self.indexed && how & 0x10 != 0 {
            block.extend_from_slice(b"\x7e\x01w");
        }
        if how & 0x20 != 0 {
            block.extend_from_slice(b"\x40\x03x-y\x01v");
            self.indexed = true;
        }
        block
    }

    fn writable(&mut self, input: &mut Input<'_>) -> Option<(u32, &mut Stream)> {
        let place = usize::from(input.byte());
        let count = self.streams.values().filter(|stream| stream.is_writable()).count();
        let mut writable = self.streams.iter_mut().filter(|(_, stream)| stream.is_writable());
        writable.nth(place.checked_rem(count)?).map(|(id, stream)| (*id, stream))
    }

    fn data(&mut self, input: &mut Input<'_>) {
        let (wanted, how) = (input.size(), input.byte());
        let left = self.may_send;
        let Some((id, stream)) = self.writable(input) else { return };
        let room = usize::try_from(left.min(stream.may_send)).unwrap_or(0).min(16_384);
        let padding = if how & 2 != 0 { usize::from(how >> 2) } else { 0 };
        let flags = if how & 2 != 0 && padding < room { PADDED } else { 0 };
        let around = if flags == PADDED { padding + 1 } else { 0 };
        let len = wanted.min(room - around);
        let data: Vec<u8> = (0..len).map(|n| (n + stream.sent.len()) as u8 ^ how).collect();
        let counted = (len + around) as i64;
        stream.may_send -= counted;
        stream.sent.extend_from_slice(&data);
        stream.client_done = how & 1 != 0;
        let end = if stream.client_done { END_STREAM } else { 0 };
        self.may_send -= counted;
        let payload = match flags {
            0 => data,
            _ => [vec![padding as u8], data, vec![0; padding]].concat(),
        };
        self.frame(DATA, flags | end, id, &payload);
    }

    fn trailers(&mut self, input: &mut Input<'_>) {
        let Some((id, stream)) = self.writable(input) else { return };
        stream.client_done = true;
        self.frame(HEADERS, END_STREAM | END_HEADERS, id, b"\x00\x01t\x01x");
    }

    fn reset(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.byte());
        let mut open = self.streams.iter_mut().filter(|(_, stream)| stream.is_open());
        let Some((id, stream)) = open.nth(place % STREAMS as usize) else { return };
        stream.taken_back = true;
        let id = *id;
        self.frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
    }

    fn window_update(&mut self, input: &mut Input<'_>) {
        let (place, more) = (usize::from(input.byte()), input.size().max(1));
        let mut open = self.streams.iter_mut().filter(|(_, stream)| stream.is_open());
        let id = match open.nth(place % (STREAMS as usize * 2)) {
            Some((id, stream)) => {
                stream.may_come += more as i64;
                *id
            }
            None => {
                self.may_come += more as i64;
                0
            }
        };
        self.frame(WINDOW_UPDATE, 0, id, &(more as u32).to_be_bytes());
    }

    fn settings(&mut self, input: &mut Input<'_>) {
        let (how, size) = (input.byte(), input.size());
        let mut payload = Vec::new();
        if how & 1 != 0 {
            payload.extend_from_slice(&[0, 4]);
            payload.extend_from_slice(&(size as u32).to_be_bytes());
        }
        if how & 2 != 0 {
            payload.extend_from_slice(&[0, 1, 0, 0, how, 0]);
        }
        self.frame(SETTINGS, 0, 0, &payload);
        self.settings.push_back((how & 1 != 0).then_some(size as i64));
    }

    fn ping(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        self.pings.push_back(what);
        self.frame(PING, 0, 0, &[what; 8]);
    }

    fn of_no_interest(&mut self, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => self.frame(2, 0, 9, &[0, 0, 0, 3, 1]),
            1 => self.frame(0x77, 0xff, 9, b"junk"),
            2 => self.frame(GO_AWAY, 0, 0, &[0; 8]),
            _ => self.frame(PING, ACK, 0, &[0; 8]),
        }
    }

    fn grant_connection(&mut self) {
        self.may_come += i64::from(ALL);
        self.frame(WINDOW_UPDATE, 0, 0, &ALL.to_be_bytes());
    }

    /// Ends all requests, and opens the windows for their answers.
    fn grant_streams(&mut self) {
        // By SETTINGS or by WINDOW_UPDATE.
        let by_settings = self.streams.len() % 2 == 1;
        if by_settings {
            self.frame(SETTINGS, 0, 0, &[&[0, 4][..], &ALL.to_be_bytes()].concat());
            self.settings.push_back(Some(ALL.into()));
        }
        let open = self.streams.iter_mut().filter(|(_, stream)| stream.is_open());
        let open: Vec<_> = open
            .map(|(id, stream)| {
                stream.may_come += if by_settings { 0 } else { i64::from(ALL) };
                (*id, !std::mem::replace(&mut stream.client_done, true))
            })
            .collect();
        for (id, to_end) in open {
            if !by_settings {
                self.frame(WINDOW_UPDATE, 0, id, &ALL.to_be_bytes());
            }
            if to_end {
                self.frame(DATA, END_STREAM, id, &[]);
            }
        }
    }

    /// Checks that bytes which outside readers have read are returned to the windows.
    fn assert_given_back(&self) {
        let read = |stream: &&Stream| stream.path == "/outside" && stream.is_writable();
        let mut read = self.streams.values().filter(read);
        assert!(!self.lawful || read.all(|stream| stream.may_send > 0), "nothing is given back");
    }

    fn assert_answered(&self) {
        assert!(self.pings.is_empty() && self.settings.is_empty() && self.partial.is_empty());
        for (id, stream) in self.streams.iter().filter(|(_, stream)| !stream.taken_back) {
            assert!(stream.ended.is_some(), "no end of {id}, {}", stream.path);
            match stream.path {
                "/echo" => assert!(stream.heard == stream.sent, "{id} is not echoed"),
                "/big" => assert_eq!(stream.heard.len(), 106_385),
                _ => {}
            }
        }
    }

    // Frames of the server.

    fn hear(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let heard = std::mem::take(&mut self.partial);
        let mut rest = &*heard;
        while let Some((&[a, b, c, kind, flags, s1, s2, s3, s4], after)) = rest.split_first_chunk() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            assert!(len <= 16_384, "a frame is too long");
            let Some((payload, after)) = after.split_at_checked(len) else { break };
            self.heard(kind, flags, u32::from_be_bytes([s1, s2, s3, s4]), payload);
            rest = after;
        }
        self.partial = rest.to_vec();
    }

    fn heard(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        assert!(!self.gone_away, "something after GOAWAY");
        assert_eq!(self.block.is_some(), kind == CONTINUATION);
        let of_connection = [SETTINGS, PING, GO_AWAY].contains(&kind);
        assert!(kind == WINDOW_UPDATE || of_connection == (stream == 0), "frame {kind} of {stream}");
        let number = || u32::from_be_bytes(payload.try_into().expect("4 bytes"));
        match kind {
            DATA => self.heard_data(stream, flags, payload),
            HEADERS => self.block = Some((stream, flags & END_STREAM != 0, Vec::new())),
            RST_STREAM => self.heard_reset(stream, number()),
            SETTINGS => self.heard_settings(flags, payload),
            PING => {
                assert!((flags, payload.len()) == (ACK, 8));
                let asked = self.pings.pop_front();
                assert!(!self.lawful || asked.is_some_and(|asked| payload == [asked; 8]));
            }
            GO_AWAY => {
                assert!(!self.lawful, "GOAWAY for nothing: {payload:?}");
                assert_eq!(payload.len(), 8);
                self.gone_away = true;
            }
            WINDOW_UPDATE => self.heard_window(stream, number()),
            CONTINUATION => {}
            kind => panic!("a frame of kind {kind}"),
        }
        if kind == HEADERS || kind == CONTINUATION {
            let (of, _, block) = self.block.as_mut().expect("it has begun");
            assert_eq!(*of, stream);
            block.extend_from_slice(payload);
            if flags & END_HEADERS != 0 {
                let (id, end, block) = self.block.take().expect("it has begun");
                self.heard_block(id, end, &block);
            }
        }
    }

    /// A stream on which the server may still send frames; `None` if the client has broken a rule.
    fn speaking(&mut self, id: u32) -> Option<&mut Stream> {
        if !self.lawful {
            return None;
        }
        let stream = self.streams.get_mut(&id).expect("it was opened");
        assert!(stream.ended.is_none(), "more of {id} after its end");
        Some(stream)
    }

    fn heard_data(&mut self, id: u32, flags: u8, payload: &[u8]) {
        assert_eq!(flags & !END_STREAM, 0);
        let first_window = self.first_window;
        let Some(stream) = self.speaking(id) else { return };
        assert!(stream.head, "DATA before HEADERS");
        stream.may_come -= payload.len() as i64;
        assert!(payload.is_empty() || stream.may_come + first_window >= 0, "more than the stream's window");
        stream.heard.extend_from_slice(payload);
        stream.ended = (flags & END_STREAM != 0).then_some(true);
        if stream.path == "/echo" {
            assert!(stream.sent.starts_with(&stream.heard), "something else is echoed");
        }
        self.may_come -= payload.len() as i64;
        assert!(self.may_come >= 0, "more than the connection's window");
    }

    fn heard_block(&mut self, id: u32, end: bool, block: &[u8]) {
        let Some(stream) = self.speaking(id) else { return };
        let block = block.strip_prefix(&[0x20]).unwrap_or(block);
        if std::mem::replace(&mut stream.head, true) {
            assert!(end, "a second head");
            assert!(stream.taken_back || !stream.sent.is_empty());
            let heard = stream.sent.len().to_string();
            let told = [b"\x00\x05heard", &[heard.len() as u8][..], heard.as_bytes()].concat();
            assert!(block == told || stream.taken_back, "{} heard other than {heard}", stream.path);
        } else {
            let refused = stream.path == "/refuse";
            assert_eq!(block, if refused { &b"\x08\x03404"[..] } else { &[0x88] });
        }
        stream.ended = end.then_some(true);
    }

    fn heard_reset(&mut self, id: u32, reason: u32) {
        if !self.lawful {
            return;
        }
        let stream = self.streams.get_mut(&id).expect("it was opened");
        // The only permitted reset: the server has ended the stream, and the client need not end it (RFC 9113 §8.1).
        assert_eq!((stream.ended, reason), (Some(true), 0), "reset of {id}");
        stream.ended = Some(false);
    }

    fn heard_settings(&mut self, flags: u8, payload: &[u8]) {
        if flags & ACK == 0 {
            return assert_eq!(payload.len(), 18);
        }
        assert!(payload.is_empty());
        let acknowledged = self.settings.pop_front();
        assert!(!self.lawful || acknowledged.is_some());
        if let Some(Some(size)) = acknowledged {
            self.first_window = size;
        }
    }

    fn heard_window(&mut self, id: u32, more: u32) {
        assert!(more > 0 && more < 1 << 31);
        let window = self.window;
        if id == 0 {
            self.may_send += i64::from(more);
            assert!(!self.lawful || self.may_send <= window, "more is given back than was sent");
        } else if let Some(stream) = self.speaking(id) {
            stream.may_send += i64::from(more);
            assert!(stream.may_send <= window, "more is given back than was sent");
        }
    }
}

const STREAMS: u32 = 10;
/// A budget in bytes that a connection never uses up.
const PLENTY: usize = 1 << 40;
/// A window in bytes, larger than all that is ever sent.
const ALL: u32 = 1 << 29;
/// The most actions of one run.
const OPS: usize = 400;
/// The most polls in a row. A run has fewer pieces of data under way.
const POLLS: usize = 100_000;
const TOGETHER: u8 = 0x80;
const JUNK: u8 = 0x2a;
const PATHS: [&str; 7] = ["/echo", "/count", "/hold", "/refuse", "/big", "/outside", "/drop"];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
