use super::*;
use crate::flood::frames::{DATA, HEADERS};
use crate::flood::outcome::Outcome;

/// The bytes that a script sends while the agent sends nothing.
fn said(script: &mut dyn Script, heard: &mut Heard, rounds: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        match script.next(heard) {
            Next::Frames(frames) => all.extend(frames),
            Next::Pause(_) => {}
            Next::Wait | Next::Silence | Next::Over => break,
        }
    }
    all
}

#[test]
fn all_say_whole_frames_and_no_more_data_than_there_is_room_for() {
    for kind in Kind::chosen(&[Kind::All]) {
        let said = said(&mut *script(kind, 0), &mut Heard::new(), 300);
        let (mut rest, mut data) = (&said[..], 0);
        while let Some(frame) = frames::first(rest) {
            assert!(frame.payload.len() <= frames::MOST, "{kind:?}");
            data += if frame.kind == DATA { frame.payload.len() } else { 0 };
            rest = &rest[frame.length()..];
        }
        assert!(rest.is_empty(), "{kind:?}");
        assert_eq!(said.is_empty(), kind == Kind::SilentConnections, "{kind:?}");
        // A script that does not read does not know the windows. It sends five bytes of DATA per call.
        assert!(data <= 65_535 || kind == Kind::UnreadAnswers, "{kind:?} said {data} bytes");
    }
}

#[test]
fn a_nack_goes_on_when_there_is_room_again() {
    let (mut script, mut heard) = (script(Kind::NackWords, 0), Heard::new());
    assert!(said(&mut *script, &mut heard, 100).len() > 65_535);
    assert!(matches!(script.next(&mut heard), Next::Wait));
    let mut room = Vec::new();
    for stream in [0, 1] {
        frames::put(&mut room, frames::WINDOW_UPDATE, 0, stream, &100_u32.to_be_bytes());
    }
    heard.take(&room, &mut Outcome::default());
    let more = said(&mut *script, &mut heard, 100);
    let frame = frames::first(&more).unwrap();
    assert_eq!((frame.kind, frame.stream, frame.payload.len()), (DATA, 1, 100));
}

#[test]
fn a_small_connection_is_over_when_its_calls_are_answered() {
    let (mut script, mut heard) = (script(Kind::SmallConnections, 0), Heard::new());
    let said = said(&mut *script, &mut heard, 100);
    assert_eq!(frames::first(&said).map(|frame| frame.kind), Some(HEADERS));
    let mut answers = Vec::new();
    for stream in [1, 3] {
        frames::put(&mut answers, HEADERS, 0, stream, &[]);
    }
    heard.take(&answers, &mut Outcome::default());
    assert!(matches!(script.next(&mut heard), Next::Wait));
    answers.clear();
    frames::put(&mut answers, frames::RST_STREAM, 0, 5, &7_u32.to_be_bytes());
    heard.take(&answers, &mut Outcome::default());
    assert!(matches!(script.next(&mut heard), Next::Over));
}

#[test]
fn streams_end_with_their_numbers() {
    let mut streams = Streams((1 << 31) - 1);
    assert_eq!(streams.next(), Some(0x7fff_ffff));
    assert_eq!(streams.next(), None);
}
