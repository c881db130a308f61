//! What clients must not be able to do, and calls that do not behave.

use std::sync::Mutex;
use std::task::Waker;

use super::*;
use crate::Reason;
use crate::inbox::Inbox;
use crate::wake::{StreamWaker, Woken};

fn inbox() -> (Arc<Woken>, Arc<Inbox>, RequestBody) {
    let woken = Arc::<Woken>::default();
    let inbox = Inbox::new(StreamWaker::new(1, &woken), false, &room());
    (woken, Arc::clone(&inbox), RequestBody::new(inbox))
}

fn read(body: &mut RequestBody) -> Poll<Option<Bytes>> {
    now(std::pin::pin!(body.frame()))
        .map(|frame| frame.map(|frame| frame.expect("infallible").into_data().expect("data")))
}

/// A byte in a piece of its own is forty, and to move all anew each time is as many moves as bytes, squared.
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

/// The connection may owe nearly half of the window, and would wait for more to be read than there is.
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
    let mut served = std::pin::pin!(serve(theirs, limits, &room(), |request| call(Arc::default(), request)));
    assert!(now(served.as_mut()).is_pending());
    let mut settings = [0; 27];
    io.read_exact(&mut settings).await.expect("SETTINGS");
    assert_eq!(settings[15..21], [0, 4, 0, 0, 0xff, 0xff]);
}

/// A body's reader that is another task than the call, which is dropped, would wait for ever, and be there for ever.
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

/// Something to hold, and how many hold it beside the server.
fn token() -> (Arc<()>, impl Fn() -> usize) {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    (held, move || weak.strong_count().saturating_sub(1))
}

/// An empty header block would be no frame at all.
#[tokio::test]
async fn trailers_that_are_none_end_the_stream() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, frame::END_STREAM, &get("/bare"))).await;
    let (said, data) = client.answer(1).await;
    assert_eq!((said.len(), data.len()), (1, 0));
}

/// A client may have as many streams as it was told, and say their last before it hears that they are over.
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
            let answer: Answer = Box::pin(Full::from("at last"));
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

/// The thread's buffers were lent to the connection, which is gone with all that it had read and wanted to say.
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

#[test]
fn what_nobody_reads_has_room_once_for_all() {
    let (woken, room) = (Arc::<Woken>::default(), Arc::new(Room::new(100)));
    let inbox = |id| Inbox::new(StreamWaker::new(id, &woken), false, &room);
    let (first, second) = (inbox(1), inbox(3));
    let mut body = RequestBody::new(Arc::clone(&first));
    first.put(vec![1; 60].into(), false);
    second.put(vec![2; 41].into(), false);
    assert!(first.settle() && !second.settle());
    // Over, it makes room; so does reading.
    assert_eq!(second.close(), 41);
    first.put(vec![3; 40].into(), false);
    assert!(first.settle());
    assert!(read(&mut body).is_ready());
    first.put(vec![4; 100].into(), false);
    assert!(first.settle());
}

#[tokio::test]
async fn a_stream_for_which_there_is_no_room_is_reset() {
    let mut client = Client::greeted().await;
    for stream in [1, 3, 5] {
        client.say(&headers(stream, 0, &get("/hold"))).await;
    }
    // Another connection's.
    let inbox = Inbox::new(StreamWaker::new(1, &Arc::default()), false, &client.room);
    inbox.put(vec![0; 1024 * 1024 - 10].into(), false);
    assert!(inbox.settle());
    client.say(&frame(frame::DATA, 0, 3, &[0; 11])).await;
    let said = client.until_pong().await;
    assert_eq!(
        (said[0].kind, said[0].stream, said[0].payload[3]),
        (frame::RST_STREAM, 3, Reason::EnhanceYourCalm as u8)
    );
    assert_eq!(client.seen.dropped.load(Ordering::Relaxed), 1);
    inbox.close();
    client.say(&frame(frame::DATA, 0, 5, &[0; 11])).await;
    assert_eq!(client.until_pong().await, []);
}
