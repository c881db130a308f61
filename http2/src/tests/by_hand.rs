//! Clients that keep the rules, and what the server sends them.

use super::*;
use crate::Reason;
use crate::machine::Machine;
use crate::stream::Stream;

#[tokio::test]
async fn the_server_speaks_first() {
    let mut client = Client::mute(1024);
    let settings = client.hear().await.expect("SETTINGS");
    assert_eq!((settings.kind, settings.flags, settings.stream), (frame::SETTINGS, 0, 0));
    assert_eq!(settings.payload, [0, 3, 0, 0, 0, 10, 0, 4, 0, 1, 0x86, 0xa0, 0, 6, 0, 0, 0x10, 0]);
    let window = client.hear().await.expect("WINDOW_UPDATE");
    assert_eq!((window.kind, &window.payload[..]), (frame::WINDOW_UPDATE, &34_465_u32.to_be_bytes()[..]));
    client.say(&greeting()).await;
    let ack = client.hear().await.expect("an ACK");
    assert_eq!((ack.kind, ack.flags), (frame::SETTINGS, frame::ACK));
}

#[tokio::test]
async fn an_authority_as_grpcio_sends_it_is_no_matter() {
    let mut client = Client::greeted().await;
    let authority = [get("/"), b"\x40\x0a:authority\x0ctmp%2Fx.sock".to_vec()].concat();
    for byte in headers(1, frame::END_STREAM, &authority) {
        client.say(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let (said, data) = client.answer(1).await;
    assert_eq!((&said[0].payload[..], &data[..]), (&[0x88][..], &b"hello"[..]));
    // The second request takes the whole field from the table, the third takes only its name from there.
    client.say(&headers(3, frame::END_STREAM, &[get("/"), vec![0x80 | 62]].concat())).await;
    assert_eq!(client.answer(3).await.1, b"hello");
    client.say(&headers(5, frame::END_STREAM, &[get("/"), b"\x7e\x06/x.s/k".to_vec()].concat())).await;
    assert_eq!(client.answer(5).await.1, b"hello");
}

#[tokio::test]
async fn blocks_over_frames_padding_and_priority_are_read() {
    let mut client = Client::greeted().await;
    let block = get("/echo");
    let padded = [&[2, 0, 0, 0, 0, 7][..], &block[..2], &[0, 0]].concat();
    let flags = frame::PADDED | frame::WITH_PRIORITY;
    client.say(&frame(frame::HEADERS, flags, 1, &padded)).await;
    client.say(&frame(frame::CONTINUATION, 0, 1, &block[2..5])).await;
    client.say(&frame(frame::CONTINUATION, frame::END_HEADERS, 1, &block[5..])).await;
    client.say(&frame(frame::DATA, frame::PADDED, 1, &[&[3][..], b"said", &[0; 3]].concat())).await;
    client.say(&headers(1, frame::END_STREAM, &field("trailer", "x"))).await;
    assert_eq!(client.answer(1).await.1, b"said");
}

#[tokio::test]
async fn an_answer_of_headers_alone_ends_the_stream() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, frame::END_STREAM, &get("/refuse"))).await;
    let (said, _) = client.answer(1).await;
    assert_eq!(said[0].payload, b"\x08\x03404\x00\x03why\x02no");
    assert_eq!(said.len(), 1);
    // The client has not ended its side: RST_STREAM with NO_ERROR says that nobody reads the rest. Frames under way
    // are ignored.
    client.say(&headers(3, 0, &get("/refuse"))).await;
    client.answer(3).await;
    let said = client.until_pong().await;
    assert_eq!((said[0].kind, said[0].payload[3]), (frame::RST_STREAM, Reason::No as u8));
    client.say(&frame(frame::DATA, 0, 3, b"late")).await;
    client.say(&headers(3, frame::END_STREAM, &field("late", "x"))).await;
    assert_eq!(client.until_pong().await, []);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused_as_http_says() {
    let mut client = Client::greeted().await;
    let many = field("some", "header").repeat(120);
    client.say(&headers(1, frame::END_STREAM, &[get("/"), many].concat())).await;
    let (said, _) = client.answer(1).await;
    assert_eq!(said[0].payload, b"\x08\x03431");
}

#[tokio::test]
async fn a_client_without_a_table_is_told_that_none_is_used() {
    let mut client = Client::greeted().await;
    client.say(&frame(frame::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])).await;
    for (stream, block) in [(1, &[0x20, 0x88][..]), (3, &[0x88])] {
        client.say(&headers(stream, frame::END_STREAM, &get("/"))).await;
        assert_eq!(client.answer(stream).await.0[0].payload, block);
    }
}

#[tokio::test]
async fn one_stream_too_many_is_refused() {
    let mut client = Client::greeted().await;
    for n in 0..=LIMITS.streams {
        client.say(&headers(n * 2 + 1, 0, &get("/hold"))).await;
    }
    let said = client.until_pong().await;
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].stream, said[0].payload[3]), (LIMITS.streams * 2 + 1, Reason::RefusedStream as u8));
    client.say(&frame(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    client.say(&headers(101, frame::END_STREAM, &get("/"))).await;
    assert_eq!(client.answer(101).await.1, b"hello");
}

#[tokio::test]
async fn an_answer_waits_for_windows() {
    let mut client = Client::greeted().await;
    let data =
        |said: &[Said]| said.iter().filter(|s| s.kind == frame::DATA).map(|s| s.payload.len()).sum::<usize>();
    let more = |stream: u32, more: u32| frame(frame::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    client.say(&frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10])).await;
    client.say(&headers(1, frame::END_STREAM, &get("/bytes/200000"))).await;
    assert_eq!(data(&client.until_pong().await), 10);
    client.say(&frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    client.say(&more(1, 5)).await;
    assert_eq!(data(&client.until_pong().await), 0, "10 less, and 5 more, is below 0");
    client.say(&more(1, 6)).await;
    assert_eq!(data(&client.until_pong().await), 1);
    client.say(&more(1, 1_000_000)).await;
    assert_eq!(data(&client.until_pong().await), 65_535 - 11, "the connection's");
    client.say(&more(0, 1_000_000)).await;
    assert_eq!(client.answer(1).await.1.len(), 200_000 - 65_535);
}

#[tokio::test]
async fn what_is_read_is_given_back() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, 0, &get("/count"))).await;
    let (mut stream, mut connection) = (LIMITS.window, LIMITS.window);
    for _ in 0..100 {
        client.say(&frame(frame::DATA, 0, 1, &[0; 10_000])).await;
        (stream, connection) = (stream - 10_000, connection - 10_000);
        for said in client.until_pong().await {
            assert_eq!(said.kind, frame::WINDOW_UPDATE);
            let more = u32::from_be_bytes(said.payload[..].try_into().expect("4 bytes"));
            *(if said.stream == 0 { &mut connection } else { &mut stream }) += more;
        }
        assert!(stream >= LIMITS.window / 2 && connection >= LIMITS.window / 2);
    }
    client.say(&frame(frame::DATA, frame::END_STREAM, 1, &[])).await;
    let (said, _) = client.answer(1).await;
    assert!(said.last().expect("trailers").payload.ends_with(b"\x05heard\x071000000"));
}

#[tokio::test]
async fn what_nobody_reads_is_bounded_and_given_back_when_the_stream_is_over() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, 0, &get("/hold"))).await;
    for _ in 0..10 {
        client.say(&frame(frame::DATA, 0, 1, &[0; 10_000])).await;
    }
    assert_eq!(client.until_pong().await, []);
    client.say(&frame(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    let said = client.until_pong().await;
    assert_eq!((said[0].kind, said[0].stream), (frame::WINDOW_UPDATE, 0));
    assert_eq!(said[0].payload, 100_000_u32.to_be_bytes());
    client.say(&headers(3, 0, &get("/hold"))).await;
    for _ in 0..10 {
        client.say(&frame(frame::DATA, 0, 3, &[0; 10_000])).await;
    }
    client.say(&frame(frame::DATA, 0, 3, &[0])).await;
    let mut last = client.hear().await.expect("a word");
    while let Some(said) = client.hear().await {
        last = said;
    }
    assert_eq!((last.kind, last.payload[7]), (frame::GO_AWAY, Reason::FlowControl as u8));
}

#[tokio::test]
async fn a_call_that_is_taken_back_is_dropped() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, 0, &get("/hold"))).await;
    client.until_pong().await;
    assert_eq!(client.seen.dropped.load(Ordering::Relaxed), 0);
    client.say(&frame(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    client.until_pong().await;
    assert_eq!(client.seen.dropped.load(Ordering::Relaxed), 1);
    // A call that is reset before its first poll makes no work.
    client.say(&[headers(3, 0, &get("/hold")), frame(frame::RST_STREAM, 0, 3, &[0, 0, 0, 8])].concat()).await;
    client.until_pong().await;
    assert_eq!(client.seen.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_is_closed_drops_its_calls() {
    let mut client = Client::greeted().await;
    client.say(&headers(1, 0, &get("/hold"))).await;
    client.until_pong().await;
    drop(client.io);
    client.served.await.expect("no panic").expect("no error");
    assert_eq!(client.seen.dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn only_the_stream_that_was_meant_is_polled() {
    let mut client = Client::greeted().await;
    for stream in [1, 3, 5] {
        client.say(&headers(stream, 0, &get("/listen"))).await;
    }
    client.until_pong().await;
    client.say(&frame(frame::DATA, 0, 3, b"x")).await;
    client.until_pong().await;
    assert_eq!(client.seen.polls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_a_client_that_does_not_read_nothing_is_read() {
    let mut client = Client::mute(1000);
    client.say(&greeting()).await;
    client.say(&headers(1, 0, &get("/echo"))).await;
    // Fills the buffers of both directions, until nothing moves.
    let mut sent = 0;
    loop {
        let data = frame(frame::DATA, 0, 1, &[b'y'; 500]);
        let mut written = 0;
        while written < data.len() {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            match now(std::pin::pin!(client.io.write(&data[written..]))) {
                Poll::Ready(more) => written += more.expect("open"),
                Poll::Pending => break,
            }
        }
        if written < data.len() {
            // Sends the rest once there is room again.
            let mut heard = 0;
            let rest = data[written..].to_vec();
            let (mut theirs, mut ours) = tokio::io::split(client.io);
            let writing = tokio::spawn(async move { ours.write_all(&rest).await.map(|()| ours) });
            sent += 500;
            while heard < sent {
                let mut head = [0; FrameHead::LEN];
                theirs.read_exact(&mut head).await.expect("a frame");
                let head = FrameHead::read(&head).expect("complete");
                let mut payload = vec![0; head.len];
                theirs.read_exact(&mut payload).await.expect("its payload");
                heard += if head.kind == frame::DATA { head.len } else { 0 };
            }
            writing.await.expect("no panic").expect("written");
            break;
        }
        sent += 500;
    }
    assert!((500..10_000).contains(&sent), "{sent} bytes were taken unread");
}

/// Bytes that an idle connection takes beside its calls. Every connection of the node pays for a new field here.
#[test]
fn a_connection_is_small() {
    assert!(size_of::<Machine>() <= 256, "{}", size_of::<Machine>());
    assert!(size_of::<Stream>() <= 112, "{}", size_of::<Stream>());
}
