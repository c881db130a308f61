//! The log records that wait to be sent. The queue is bounded; what finds no place is counted, and the receiver is told.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use proto::otlp::collector_logs::ExportLogsServiceRequest;
use proto::otlp::common::any_value::Value;
use proto::otlp::common::{AnyValue, KeyValue};
use proto::otlp::logs::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use proto::otlp::resource::Resource;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{nanoseconds, scope, text};

/// The queue. Whoever logs puts a record in and never waits.
#[derive(Debug, Default)]
pub(crate) struct Records {
    state: Mutex<State>,
    /// Signalled when a record comes to an empty queue.
    first: Notify,
    /// Signalled when a batch is full.
    full: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the memory that it takes.
    records: VecDeque<(LogRecord, usize)>,
    bytes: usize,
    /// Records dropped since the last one that told their number.
    dropped: u64,
}

/// Records of one request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Bytes,
    pub(super) count: u64,
}

impl Records {
    /// Queues a record. If there is no room it is dropped: the beginning of a trouble tells more than its repetitions.
    pub(crate) fn push(&self, record: LogRecord) {
        let cost = cost(&record);
        let mut state = self.lock();
        if state.records.len() == MOST || state.bytes + cost > BYTES || cost > ONE {
            state.drop_more(1);
            return;
        }
        state.bytes += cost;
        state.records.push_back((record, cost));
        let count = state.records.len();
        drop(state);
        if count == 1 {
            self.first.notify_one();
        } else if count == BATCH {
            self.full.notify_one();
        }
    }

    /// Waits until there is something to send, and a moment longer for what comes with it.
    pub(super) async fn filled(&self) {
        while self.lock().records.is_empty() {
            self.first.notified().await;
        }
        if self.lock().records.len() < BATCH {
            let _ = timeout(MOMENT, self.full.notified()).await;
        }
    }

    /// Takes the oldest records; `None` if there are none.
    pub(super) fn take(&self, resource: &Resource) -> Option<Batch> {
        let mut state = self.lock();
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < BATCH
            && let Some((record, cost)) = state.records.pop_front_if(|(_, cost)| bytes + *cost <= BATCH_BYTES)
        {
            bytes += cost;
            records.push(record);
        }
        state.bytes -= bytes;
        if state.records.is_empty() {
            // A burst is over; its memory must not stay.
            state.records = VecDeque::new();
        }
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        if dropped > 0 {
            records.push(told(dropped));
        }
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        (count > 0).then(|| Batch { request: request(records, resource), count })
    }

    /// Counts records that the receiver has refused.
    pub(super) fn refused(&self, count: u64) {
        self.lock().drop_more(count);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_more(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
        DROPPED.fetch_add(count, Ordering::Relaxed);
    }
}

/// The number of records that were not sent.
pub(crate) fn records_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The memory that a record takes in the queue, in bytes.
fn cost(record: &LogRecord) -> usize {
    record.encoded_len() + size_of::<LogRecord>() + record.attributes.capacity() * size_of::<KeyValue>()
}

fn request(log_records: Vec<LogRecord>, resource: &Resource) -> Bytes {
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource.clone()), scope_logs }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

/// The record that tells how many are missing.
fn told(count: u64) -> LogRecord {
    let now = nanoseconds(SystemTime::now());
    let count = Value::IntValue(i64::try_from(count).unwrap_or(i64::MAX));
    LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number: SeverityNumber::Warn.into(),
        severity_text: "warning".to_owned(),
        body: Some(text(
            "Log records were not sent by OTLP: there were too many, or they were refused".to_owned(),
        )),
        attributes: vec![KeyValue { key: "count".to_owned(), value: Some(AnyValue { value: Some(count) }) }],
    }
}

/// The most records that wait.
pub(super) const MOST: usize = 2048;
/// The most bytes of all records that wait.
const BYTES: usize = 1024 * 1024;
/// The most bytes of a record.
const ONE: usize = 64 * 1024;
/// The most records of a request, as in OpenTelemetry's libraries.
pub(super) const BATCH: usize = 512;
/// The most bytes of the records of a request.
const BATCH_BYTES: usize = 512 * 1024;
/// How long the first record of a batch waits for others, as in OpenTelemetry's libraries.
const MOMENT: Duration = Duration::from_secs(1);
