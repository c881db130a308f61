//! A worker: a process with one thread that carries out one [`Plan`](crate::plan::Plan).
//!
//! Orders come on standard input, and news go to standard output. When standard input ends, the parent has gone and the
//! worker ends too.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::clock;
use crate::connection::{Connection, Failure};
use crate::envoy::{Envoy, Fleet};
use crate::error::Error;
use crate::plan::{Hold, Last, News, Order, Tick, Work};
use crate::tally::{Tally, Timed};
use crate::wire::Message;

/// Runs a worker to its end.
pub(crate) fn run() -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Worker)?;
    let tally = Rc::new(Tally::default());
    let local = LocalSet::new();
    let fleet = runtime.block_on(local.run_until(work(Rc::clone(&tally)))).map_err(Error::Worker)?;
    // This drops every stream and every socket.
    drop(local);
    let Some(fleet) = fleet else { return Ok(()) };
    let unserved = fleet.unserved.take().into_iter();
    let unserved = unserved.map(|(connection, name)| (connection, fleet.plan.names[name].clone())).collect();
    let last =
        Last { tick: tick(&tally), latencies: tally.latencies().to_pairs(), unserved, cpu: clock::own_cpu() };
    say(&News::Done(last)).map_err(Error::Worker)
}

type Orders = Lines<BufReader<pipe::Receiver>>;

/// Works until the order to stop. Returns `None` if the parent has gone.
async fn work(tally: Rc<Tally>) -> io::Result<Option<Rc<Fleet>>> {
    let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut orders = BufReader::new(input).lines();
    let Some(Order::Plan(plan)) = next(&mut orders).await? else { return Ok(None) };
    if let Work::Flood(flood) = &plan.work {
        flood.become_user()?;
    }
    let fleet = Rc::new(Fleet::new(*plan, Rc::clone(&tally)));
    say(&News::Ready)?;
    let Some(Order::Go { at }) = next(&mut orders).await? else { return Ok(None) };
    sleep(Duration::from_nanos(at.saturating_sub(clock::now()))).await;
    let grants = Rc::new(Semaphore::new(0));
    begin(&fleet, &grants);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = Tick::default();
    loop {
        tokio::select! {
            order = next(&mut orders) => match order? {
                Some(Order::More(count)) => grants.add_permits(count),
                Some(Order::Calm) => tally.calm.set(true),
                Some(Order::Stop) => return Ok(Some(fleet)),
                Some(Order::Plan(_) | Order::Go { .. }) => {}
                None => return Ok(None),
            },
            _ = ticks.tick() => say_if_new(&tally, &mut said)?,
            () = tally.nudge.notified() => say_if_new(&tally, &mut said)?,
        }
    }
}

/// Sends a tick if something has changed. A parent of a hundred workers should not get ten messages a second from each
/// without news.
fn say_if_new(tally: &Tally, said: &mut Tick) -> io::Result<()> {
    let now = tick(tally);
    if now != *said {
        *said = now.clone();
        say(&News::Tick(now))?;
    }
    Ok(())
}

async fn next(orders: &mut Orders) -> io::Result<Option<Order>> {
    let line = orders.next_line().await?;
    line.map(|line| serde_json::from_str(&line).map_err(io::Error::other)).transpose()
}

fn say(news: &News) -> io::Result<()> {
    let mut line = serde_json::to_vec(news)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}

fn tick(tally: &Tally) -> Tick {
    Tick { counts: tally.counts(), rotations: tally.rotations(), finished: tally.is_finished() }
}

fn begin(fleet: &Rc<Fleet>, grants: &Rc<Semaphore>) {
    match &fleet.plan.work {
        Work::Hold(hold) => hold_streams(fleet, hold),
        Work::Churn { lanes, granted } => {
            grants.add_permits(*granted);
            for _ in 0..*lanes {
                spawn_local(churn(Rc::clone(fleet), Rc::clone(grants)));
            }
        }
        Work::Flood(flood) => flood.begin(fleet),
        Work::Warm { count } => drop(spawn_local(warm(Rc::clone(fleet), *count))),
        Work::Newcomers { count, health_every } => {
            spawn_local(newcomers(Rc::clone(fleet), *count));
            if let Some(every) = *health_every {
                spawn_local(probes(Rc::clone(fleet), every));
            }
        }
    }
}

fn hold_streams(fleet: &Rc<Fleet>, hold: &Hold) {
    let hold = Rc::new(hold.clone());
    for number in &hold.connections {
        let envoy = Envoy::new(Rc::clone(fleet), Rc::clone(&hold), *number);
        for index in 0..hold.streams {
            spawn_local(Rc::clone(&envoy).live(index));
        }
    }
}

async fn churn(fleet: Rc<Fleet>, grants: Rc<Semaphore>) {
    let mut turn = 0;
    while let Ok(grant) = grants.acquire().await {
        grant.forget();
        turn += 1;
        let start = clock::now();
        match on_fresh_connection(&fleet, turn % fleet.plan.names.len()).await {
            Ok(first) => {
                fleet.tally.time(Timed::FirstSecret, first - start);
                fleet.tally.time(Timed::Exchange, clock::now() - start);
            }
            Err(failure) => fleet.tally.failed(&failure),
        }
        fleet.tally.count(|counts| counts.exchanges += 1);
        if grants.available_permits() == 0 {
            fleet.tally.nudge.notify_one();
        }
    }
}

/// Connects, reads the first secret, acknowledges it and closes. Returns when the secret arrived.
async fn on_fresh_connection(fleet: &Fleet, name: usize) -> Result<u64, Failure> {
    let exchange = async {
        let connection = Connection::open(&fleet.plan.socket, None, &fleet.tally).await?;
        let first = exchange(fleet, &connection, name).await?;
        connection.close().await;
        Ok(first)
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(late()))
}

/// Opens a stream, reads the first secret, acknowledges it and ends the stream. Returns when the secret arrived.
async fn exchange(fleet: &Fleet, connection: &Connection, name: usize) -> Result<u64, Failure> {
    let mut stream = fleet.open(connection, name, &[]).await?;
    let response = fleet.response(&mut stream, name).await?;
    let first = clock::now();
    if let Some(ack) = fleet.ack(name, &response) {
        let written = Rc::new(tokio::sync::Notify::new());
        let notify = Rc::clone(&written);
        stream.send(ack.on_written(move || notify.notify_one()), true)?;
        written.notified().await;
        fleet.tally.count(|counts| counts.acks += 1);
    }
    Ok(first)
}

async fn warm(fleet: Rc<Fleet>, count: usize) {
    if let Err(failure) = fresh_streams(&fleet, count).await {
        fleet.tally.failed(&failure);
    }
    for turn in 0..count {
        let start = clock::now();
        match on_fresh_connection(&fleet, turn % fleet.plan.names.len()).await {
            Ok(first) => fleet.tally.time(Timed::FreshConnection, first - start),
            Err(failure) => fleet.tally.failed(&failure),
        }
        fleet.tally.count(|counts| counts.exchanges += 1);
    }
    fleet.tally.finish();
}

async fn fresh_streams(fleet: &Fleet, count: usize) -> Result<(), Failure> {
    let connection = Connection::open(&fleet.plan.socket, None, &fleet.tally).await?;
    for turn in 0..count {
        let start = clock::now();
        let exchange = exchange(fleet, &connection, turn % fleet.plan.names.len());
        let first = timeout(PATIENCE, exchange).await.map_err(|_| late())??;
        fleet.tally.time(Timed::FreshStream, first - start);
        fleet.tally.count(|counts| counts.exchanges += 1);
    }
    connection.close().await;
    Ok(())
}

/// Newcomers come at intervals, even if earlier ones still wait. Otherwise one newcomer that waits long would keep away
/// all who would have waited too.
async fn newcomers(fleet: Rc<Fleet>, count: usize) {
    let mut ticks = interval(BETWEEN_NEWCOMERS);
    for turn in 0..count {
        ticks.tick().await;
        if turn > 0 && fleet.tally.calm.get() {
            break;
        }
        spawn_local(newcomer(Rc::clone(&fleet), turn));
    }
}

async fn newcomer(fleet: Rc<Fleet>, turn: usize) {
    let _waiting = fleet.tally.open(|counts| &mut counts.waiting);
    let start = clock::now();
    match on_fresh_connection(&fleet, turn % fleet.plan.names.len()).await {
        Ok(first) => fleet.tally.time(Timed::Newcomer, first - start),
        Err(failure) => {
            fleet.tally.count(|counts| counts.newcomers_failed += 1);
            fleet.tally.failed(&failure);
        }
    }
    fleet.tally.count(|counts| counts.newcomers += 1);
}

/// Sends health probes, each on its own connection, even if earlier ones still wait.
async fn probes(fleet: Rc<Fleet>, every: Duration) {
    let mut ticks = interval(every);
    let mut first = true;
    while first || !fleet.tally.calm.get() {
        ticks.tick().await;
        spawn_local(probe(Rc::clone(&fleet)));
        first = false;
    }
}

async fn probe(fleet: Rc<Fleet>) {
    let _waiting = fleet.tally.open(|counts| &mut counts.waiting);
    let start = clock::now();
    let healthy = timeout(PATIENCE, health(&fleet)).await.unwrap_or_else(|_| Err(late()));
    fleet.tally.time(Timed::Health, clock::now() - start);
    fleet.tally.count(|counts| counts.probes += 1);
    if let Err(failure) = healthy {
        fleet.tally.count(|counts| counts.probes_failed += 1);
        fleet.tally.failed(&failure);
    }
}

async fn health(fleet: &Fleet) -> Result<(), Failure> {
    let request = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .expect("well-formed");
    let connection = Connection::open(&fleet.plan.socket, None, &fleet.tally).await?;
    let answer = connection.stream(request, Message::empty(), true).await?.next().await?;
    connection.close().await;
    let serving = answer.is_some_and(|answer| *answer == SERVING);
    let not = || Failure { code: "health".into(), message: "the agent says that it is not serving".into() };
    serving.then_some(()).ok_or_else(not)
}

fn late() -> Failure {
    Failure { code: "no answer".into(), message: format!("nothing came within {} s", PATIENCE.as_secs()) }
}

/// `HealthCheckResponse { status: SERVING }`.
const SERVING: [u8; 2] = [8, 1];
const TICK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
const BETWEEN_NEWCOMERS: Duration = Duration::from_millis(20);
