//! Clients that attack, and calls that misbehave.

use std::sync::Mutex;
use std::task::Waker;

use super::*;
use crate::Reason;
use crate::inbox::Inbox;
use crate::wake::{StreamWaker, Woken};

fn inbox() -> (Arc<Woken>, Arc<Inbox>, RequestBody) {
    let woken = Arc::<Woken>::default();
    let inbox = Inbox::new(StreamWaker::new(1, &woken), false);
    (woken, Arc::clone(&inbox), RequestBody::new(inbox))
}

fn read(body: &mut RequestBody) -> Poll<Option<Bytes>> {
    now(std::pin::pin!(body.frame()))
        .map(|frame| frame.map(|frame| frame.expect("infallible").into_data().expect("data")))
}

/// A byte in a piece of its own takes forty; moving all bytes for each new one takes time squared.
#[test]
fn tiny_frames_that_nobody_reads_are_kept_in_one_piece() {
    let (_, inbox, mut body) = inbox();
    for n in 0..200 {
        inbox.put(Bytes::from(vec![n]), false);
        if n < 150 {
            inbox.settle();
        }
    }
    assert_eq!(read(&mut body), Poll::Ready(Some((0..150).collect())));
    assert_eq!(read(&mut body), Poll::Ready(Some(Bytes::from_static(&[150]))));
    assert_eq!((inbox.end_poll(), inbox.close()), (151, 49));
    assert_eq!(read(&mut body), Poll::Ready(None));
}

/// The connection may owe nearly half of the window. It must not wait for more to be read than the client may send.
#[test]
fn half_of_the_smallest_window_read_elsewhere_is_given_back() {
    let (woken, inbox, mut body) = inbox();
    inbox.put(vec![0; 32_768].into(), false);
    woken.drain(&mut Vec::new());
    inbox.stream.begin();
    assert!(read(&mut body).is_ready());
    assert!(!woken.is_empty());
}

#[tokio::test]
async fn a_window_below_what_clients_begin_with_is_not_announced() {
    let (mut io, theirs) = tokio::io::duplex(1024);
    let limits = Limits { window: 10, ..LIMITS };
    let served = serve(theirs, limits, Account::alone(ROOM), |request| call(Arc::default(), request));
    let mut served = std::pin::pin!(served.expect("there is room"));
    assert!(now(served.as_mut()).is_pending());
    let mut settings = [0; 27];
    io.read_exact(&mut settings).await.expect("SETTINGS");
    assert_eq!(settings[15..21], [0, 4, 0, 0, 0xff, 0xff]);
}

/// A task that reads the request body, while the call itself is dropped, would otherwise wait and exist for ever.
#[tokio::test]
async fn a_reader_elsewhere_is_told_when_its_stream_is_gone() {
    let (ended, readers) = token();
    let mut client = Client::of(1024 * 1024, move |request| {
        let (body, ended) = (request.into_body(), Arc::clone(&ended));
        tokio::spawn(async move {
            body.collect().await.expect("infallible");
            drop(ended);
        });
        std::future::pending()
    })
    .greet()
    .await;
    client.say(&headers(1, 0, &get("/"))).await;
    client.say(&headers(3, 0, &get("/"))).await;
    client.until_pong().await;
    assert_eq!(readers(), 2);
    client.say(&frame(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    client.until_pong().await;
    assert_eq!(readers(), 1);
    drop(client.io);
    client.served.await.expect("no panic").expect("no error");
    tokio::task::yield_now().await;
    assert_eq!(readers(), 0);
}

/// A token for the server to hold, and a function that counts its holders on the server.
fn token() -> (Arc<()>, impl Fn() -> usize) {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    (held, move || weak.strong_count().saturating_sub(1))
}

/// An empty header block would produce no frame, and the stream would never end.
#[tokio::test]
async fn trailers_that_are_none_end_the_stream() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, frame::END_STREAM, &get("/bare"))).await;
    let (said, data) = client.answer(1).await;
    assert_eq!((said.len(), data.len()), (1, 0));
}

/// A client may use all the streams that it was allowed, and end them before it reads that the server reset them.
#[tokio::test]
async fn what_is_under_way_to_many_streams_that_were_ended_is_passed_over() {
    let mut client = Client::greeted().await;
    let streams = || (1..200).step_by(2);
    let all = |frame: &dyn Fn(u32) -> Vec<u8>| streams().flat_map(frame).collect::<Vec<_>>();
    client.say(&all(&|stream| headers(stream, 0, &get("/refuse")))).await;
    client.until_pong().await;
    client.say(&all(&|stream| frame(frame::DATA, 0, stream, b"late"))).await;
    client.say(&all(&|stream| headers(stream, frame::END_STREAM, &field("late", "x")))).await;
    assert_eq!(client.until_pong().await, []);
}

#[tokio::test]
async fn a_call_that_is_woken_by_another_thread_goes_on() {
    let waiting = Arc::<Mutex<(bool, Option<Waker>)>>::default();
    let of_call = Arc::clone(&waiting);
    let mut client = Client::of(1024 * 1024, move |_| {
        let waiting = Arc::clone(&of_call);
        std::future::poll_fn(move |cx| {
            let (go_on, waker) = &mut *waiting.lock().expect("no panic");
            *waker = Some(cx.waker().clone());
            let answer: ResponseBody = Box::pin(Full::from("at last"));
            if *go_on { Poll::Ready(Response::new(answer)) } else { Poll::Pending }
        })
    })
    .greet()
    .await;
    client.say(&headers(1, frame::END_STREAM, &get("/"))).await;
    assert_eq!(client.until_pong().await, []);
    std::thread::spawn(move || {
        let mut waiting = waiting.lock().expect("no panic");
        waiting.0 = true;
        waiting.1.take().expect("it waits").wake();
    });
    assert_eq!(client.answer(1).await.1, b"at last");
}

/// The connection that panics had borrowed the thread's buffers. They are gone with it; the next connection gets new
/// ones.
#[tokio::test]
async fn a_call_that_panics_is_the_end_of_its_connection_only() {
    let mut other = Client::greeted().await;
    let mut client = Client::greeted().await;
    let calls = [headers(1, frame::END_STREAM, &get("/bytes/5")), headers(3, 0, &get("/panic")), vec![0; 5]];
    client.say(&calls.concat()).await;
    assert!(client.served.await.expect_err("a panic").is_panic());
    other.say(&headers(1, frame::END_STREAM, &get("/"))).await;
    assert_eq!(other.answer(1).await.1, b"hello");
    let mut new = Client::greeted().await;
    new.say(&headers(1, frame::END_STREAM, &get("/"))).await;
    assert_eq!(new.answer(1).await.1, b"hello");
}

/// Sends `bytes` bytes to a call that does not read.
async fn send_unread(client: &mut Client, stream: u32, mut bytes: usize) -> Vec<Said> {
    while bytes > 0 {
        let piece = bytes.min(16_384);
        client.say(&frame(frame::DATA, 0, stream, &vec![0; piece])).await;
        bytes -= piece;
    }
    client.until_pong().await
}

#[tokio::test]
async fn a_stream_for_which_there_is_no_room_is_reset() {
    let mut client = Client::greeted().await;
    for stream in [1, 3] {
        client.say(&headers(stream, 0, &get("/hold"))).await;
    }
    client.until_pong().await;
    let taken = client.account.charge(ROOM - client.account.held() - 20_000).expect("there is room");
    assert_eq!(send_unread(&mut client, 1, 15_000).await, []);
    let said = send_unread(&mut client, 3, 8000).await;
    assert_eq!(
        (said[0].kind, said[0].stream, said[0].payload[3]),
        (frame::RST_STREAM, 3, Reason::EnhanceYourCalm as u8)
    );
    assert_eq!(client.seen.dropped.load(Ordering::Relaxed), 1);
    drop(taken);
    client.say(&headers(5, 0, &get("/hold"))).await;
    assert_eq!(send_unread(&mut client, 5, 8000).await, []);
}

#[tokio::test]
async fn what_is_kept_for_a_client_is_charged_until_it_is_gone() {
    let mut client = Client::greeted().await;
    let idle = client.account.held();
    let entries: Vec<u8> =
        (0..40_u8).flat_map(|n| [&[0x40, 1, b'a' + n % 26, 30][..], &[b'v'; 30]].concat()).collect();
    client.say(&headers(1, 0, &[get("/hold"), entries].concat())).await;
    client.say(&frame(frame::DATA, 0, 1, &[0; 5000])).await;
    client.until_pong().await;
    let held = client.account.held();
    assert!(held > idle + 5000 + 40 * 63, "{held}");
    client.say(&frame(frame::HEADERS, 0, 3, &[0; 3000])).await;
    // An incomplete frame is kept as it came.
    client.say(&frame(frame::CONTINUATION, 0, 3, &[0; 9000])[..8000]).await;
    while client.account.held() < held + 11_000 {
        tokio::task::yield_now().await;
    }
    drop(client.io);
    client.served.await.expect("no panic").expect("no error");
    assert_eq!(client.account.held(), 0);
}

#[tokio::test]
async fn a_call_for_which_there_is_no_room_is_told_so() {
    let mut client = Client::greeted().await;
    let taken = client.account.charge(ROOM - client.account.held() - 100).expect("there is room");
    client.say(&headers(1, frame::END_STREAM, &get("/"))).await;
    let said = client.until_pong().await;
    assert_eq!((said[0].kind, said[0].stream, said[0].flags & frame::END_STREAM), (frame::HEADERS, 1, 1));
    assert!(said[0].payload.windows(13).any(|part| part == b"grpc-status\x018"), "{:?}", said[0].payload);
    drop(taken);
    client.say(&headers(3, frame::END_STREAM, &get("/"))).await;
    assert_eq!(client.answer(3).await.1, b"hello");
}

#[tokio::test]
async fn a_connection_for_which_there_is_no_room_is_not_served() {
    let (_, theirs) = tokio::io::duplex(1024);
    let served = serve::<_, _, _, ResponseBody>(theirs, LIMITS, Account::alone(10), |request| {
        call(Arc::default(), request)
    });
    assert!(served.is_err());
}

/// Responses that a client never reads are kept, as long as there is room.
#[tokio::test]
async fn a_client_that_does_not_read_is_sent_away_when_there_is_no_room() {
    let mut client = Client::mute(64 * 1024);
    let _taken = client.account.charge(ROOM - client.account.held() - 20_000).expect("there is room");
    client.say(&greeting()).await;
    client.say(&setting_first_window(1 << 30)).await;
    client.say(&frame(frame::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await;
    client.say(&headers(1, frame::END_STREAM, &get("/bytes/500000"))).await;
    let ended = client.served.await.expect("no panic");
    let told = matches!(ended, Err(Error::Protocol { reason: Reason::EnhanceYourCalm, .. }));
    assert!(told, "{ended:?}");
}

fn setting_first_window(size: u32) -> Vec<u8> {
    frame(frame::SETTINGS, 0, 0, &[&[0, 4], &size.to_be_bytes()[..]].concat())
}

/// Each frame uses up the allowance of the group, so that its three connections take turns, in rounds.
#[tokio::test]
async fn a_group_that_does_much_waits_for_the_next_round() {
    let limits = budget::Limits { whole: ROOM, spare: 0, group: ROOM, account: ROOM, work: 1 };
    let budget = budget::Budget::new(limits);
    let group = budget.group("greedy");
    let mut clients: Vec<_> = (0..3).map(|_| Client::with(group.account())).collect();
    for client in &mut clients {
        client.say(&[greeting(), headers(1, frame::END_STREAM, &get("/"))].concat()).await;
    }
    tokio::task::yield_now().await;
    let mut rounds = 0;
    while now(std::pin::pin!(std::future::poll_fn(|cx| budget.poll_parked(cx)))).is_ready() {
        rounds += 1;
        budget.next_round();
        tokio::task::yield_now().await;
    }
    // Each connection needs two frames and a call, and the first frame came before the first round.
    assert!((6..=20).contains(&rounds), "{rounds}");
    for client in &mut clients {
        assert_eq!(client.answer(1).await.1, b"hello");
    }
}

#[tokio::test]
async fn a_connection_that_drains_answers_what_was_begun_and_ends() {
    let limits = budget::Limits { whole: ROOM, spare: 0, group: ROOM, account: ROOM, work: u64::MAX };
    let budget = budget::Budget::new(limits);
    let mut client = Client::with(budget.group("a").account()).greet().await;
    client.say(&headers(1, 0, &get("/count"))).await;
    client.until_pong().await;
    budget.drain();
    let said = client.hear().await.expect("GOAWAY");
    assert_eq!((said.kind, said.payload), (frame::GO_AWAY, vec![0, 0, 0, 1, 0, 0, 0, 0]));
    client.say(&headers(3, frame::END_STREAM, &get("/"))).await;
    let (said, _) = client.answer(3).await;
    assert_eq!((said[0].kind, said[0].payload[3]), (frame::RST_STREAM, Reason::RefusedStream as u8));
    client.say(&frame(frame::DATA, frame::END_STREAM, 1, b"12")).await;
    client.answer(1).await;
    assert_eq!(client.hear().await, None);
    client.served.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_connection_whose_turn_it_is_to_end_has_its_calls_end() {
    let limits = budget::Limits { whole: ROOM, spare: 0, group: ROOM, account: ROOM, work: u64::MAX };
    let budget = budget::Budget::new(limits);
    let mut client = Client::with(budget.group("a").account()).greet().await;
    client.say(&headers(1, frame::END_STREAM, &get("/twice"))).await;
    client.until_pong().await;
    budget.drain();
    assert_eq!(client.hear().await.expect("GOAWAY").kind, frame::GO_AWAY);
    assert_eq!(budget.end_some(1), 0);
    client.answer(1).await;
    assert_eq!(client.hear().await, None);
    client.served.await.expect("no panic").expect("no error");
}
