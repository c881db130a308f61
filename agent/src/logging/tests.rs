use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

#[test]
fn a_fifo_is_a_log_file_once_somebody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reason = open(&fifo).unwrap_err().to_string();
    assert!(reason.starts_with("is a FIFO that nobody reads: start its reader first"), "{reason}");
    let mut reader = OpenOptions::new();
    let _reads = reader.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).unwrap();
    let file = open(&fifo).unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK), "a line must not be lost where the reader is slow");
    open(Path::new("/dev/null")).unwrap();
}

#[test]
fn whoever_asks_is_told_which_levels_are_on() {
    let _turn = turn();
    let writer = Writer::start(Box::new(io::sink()), QUEUE_BYTES, left_out(LogFormat::Text)).unwrap();
    let logger = Logger { format: LogFormat::Text, location: false, writer };
    tracing::subscriber::with_default(logger, || {
        assert!(tracing::enabled!(Level::INFO));
        assert!(!tracing::enabled!(Level::DEBUG));
    });
}

#[test]
fn what_was_left_out_is_told_in_the_configured_form() {
    let said = "level=warning msg=\"Log lines were left out: the reader of the log is slow\" count=7\n";
    assert!(left_out(LogFormat::Default)(7).ends_with(said));
    assert!(left_out(LogFormat::Text)(7).ends_with(said));
    assert!(left_out(LogFormat::Json)(7).starts_with("{\"count\":7,\"level\":\"warning\","));
}

#[test]
fn other_crates_are_capped() {
    assert!(ours("agent::manager") && ours("sds::service"));
    assert!(!ours("h2::codec") && !ours("tonic::transport") && !ours("agents"));
}

/// The level belongs to the process, so that tests which depend on it take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURNS: Mutex<()> = Mutex::new(());
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines that `log` writes at this level.
fn lines(level: LogLevel, location: bool, log: impl Fn()) -> Vec<String> {
    let _turn = turn();
    let (mut reader, pipe) = io::pipe().unwrap();
    let writer = Writer::start(Box::new(pipe), QUEUE_BYTES, left_out(LogFormat::Text)).unwrap();
    let logger = Logger { format: LogFormat::Text, location, writer: Arc::clone(&writer) };
    let before = LEVEL.swap(level as u8, Ordering::Relaxed);
    tracing::subscriber::with_default(logger, || {
        tracing::callsite::rebuild_interest_cache();
        log();
    });
    LEVEL.store(before, Ordering::Relaxed);
    writer.flush(Duration::from_secs(600));
    writer.switch(Box::new(io::sink()));
    let mut text = String::new();
    io::Read::read_to_string(&mut reader, &mut text).unwrap();
    text.lines().map(|line| line.split_once(" level=").unwrap().1.to_owned()).collect()
}

#[test]
fn fatal_shows_why_the_agent_ends_and_panic_nothing() {
    let log = || {
        tracing::error!("Synchronize failed");
        tracing::error!(target: FATAL, error = "why", "Agent crashed");
    };
    assert_eq!(lines(LogLevel::Panic, false, log), [""; 0]);
    assert_eq!(lines(LogLevel::Fatal, false, log), ["error msg=\"Agent crashed\" error=why"]);
    assert_eq!(lines(LogLevel::Error, false, log).len(), 2);
}

#[test]
fn lines_say_where_they_come_from() {
    let log = || tracing::info!(subsystem_name = "cache_manager", "here");
    let said = lines(LogLevel::Info, true, log);
    let (file, func) = (format!("tests.rs:{}", line!() - 2), module_path!());
    assert_eq!(said, [format!("info msg=here file=\"{file}\" func=\"{func}\" subsystem_name=cache_manager")]);
}
