//! The parent's handle of the worker processes.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::plan::{Last, News, Order, Plan, Tick};
use crate::tally::{Arrivals, Content, Counts, Latencies};

/// All worker processes.
pub(crate) struct Workers {
    all: Vec<Worker>,
    news: mpsc::UnboundedReceiver<(usize, Option<News>)>,
}

struct Worker {
    orders: ChildStdin,
    tick: Tick,
    last: Option<Last>,
    child: Child,
}

/// The sum of all workers' counts.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) rotations: BTreeMap<Content, Arrivals>,
    /// Whether all workers whose work ends by itself are done.
    pub(crate) finished: bool,
}

/// The final measurements of all workers.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) totals: Totals,
    pub(crate) latencies: Latencies,
    pub(crate) unserved: Vec<(usize, String)>,
    /// The workers' own CPU time, in nanoseconds.
    pub(crate) cpu: u64,
}

impl Workers {
    /// Starts one worker for each plan, and waits until all are ready.
    pub(crate) async fn start(plans: Vec<Plan>) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::Worker)?;
        let (sender, news) = mpsc::unbounded_channel();
        let mut workers = Self { all: Vec::new(), news };
        for (number, plan) in plans.into_iter().enumerate() {
            let mut command = Command::new(&program);
            command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            // Ctrl-C must reach only the parent, which then makes the workers report.
            command.process_group(0);
            let mut child = command.spawn().map_err(Error::Worker)?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (orders, output) = pipes.ok_or_else(|| Error::Worker(io::ErrorKind::BrokenPipe.into()))?;
            tokio::spawn(listen(number, output, sender.clone()));
            workers.all.push(Worker { orders, tick: Tick::default(), last: None, child });
            workers.order(number, &Order::Plan(Box::new(plan))).await?;
        }
        let mut ready = 0;
        while ready < workers.all.len() {
            if let News::Ready = workers.next().await?.1 {
                ready += 1;
            }
        }
        Ok(workers)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) async fn order(&mut self, worker: usize, order: &Order) -> Result<(), Error> {
        let mut line = serde_json::to_vec(order).map_err(|error| Error::Worker(error.into()))?;
        line.push(b'\n');
        self.all[worker].orders.write_all(&line).await.map_err(Error::Worker)
    }

    pub(crate) async fn order_all(&mut self, order: &Order) -> Result<(), Error> {
        for worker in 0..self.all.len() {
            self.order(worker, order).await?;
        }
        Ok(())
    }

    /// Waits for news, and processes all that have arrived.
    pub(crate) async fn hear(&mut self) -> Result<(), Error> {
        let (worker, news) = self.next().await?;
        self.take_in(worker, news);
        while let Ok((worker, news)) = self.news.try_recv() {
            self.take_in(worker, news.ok_or(Error::WorkerEnded)?);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(usize, News), Error> {
        match self.news.recv().await {
            Some((worker, Some(news))) => Ok((worker, news)),
            Some((_, None)) | None => Err(Error::WorkerEnded),
        }
    }

    fn take_in(&mut self, worker: usize, news: News) {
        let worker = &mut self.all[worker];
        match news {
            News::Ready => {}
            News::Tick(tick) => worker.tick = tick,
            News::Done(last) => {
                worker.tick = last.tick.clone();
                worker.last = Some(last);
            }
        }
    }

    pub(crate) fn exchanges(&self, worker: usize) -> u64 {
        self.all[worker].tick.counts.exchanges
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals { finished: true, ..Totals::default() };
        for Worker { tick, .. } in &self.all {
            totals.counts.add(&tick.counts);
            totals.finished &= tick.finished;
            for (content, arrivals) in &tick.rotations {
                totals
                    .rotations
                    .entry(content.clone())
                    .and_modify(|all| all.add(arrivals))
                    .or_insert(*arrivals);
            }
        }
        totals
    }

    /// Makes the workers close everything, and returns their measurements.
    pub(crate) async fn stop(mut self) -> Result<Measured, Error> {
        self.order_all(&Order::Stop).await?;
        while self.all.iter().any(|worker| worker.last.is_none()) {
            let (worker, news) = self.next_unless_done().await?;
            self.take_in(worker, news);
        }
        let mut measured = Measured { totals: self.totals(), ..Measured::default() };
        for worker in &mut self.all {
            worker.child.wait().await.map_err(Error::Worker)?;
        }
        for last in self.all.into_iter().filter_map(|worker| worker.last) {
            measured.latencies.add(&last.latencies);
            measured.unserved.extend(last.unserved);
            measured.cpu += last.cpu;
        }
        Ok(measured)
    }

    /// Waits for the next news. A worker may end here, after its last message.
    async fn next_unless_done(&mut self) -> Result<(usize, News), Error> {
        loop {
            match self.news.recv().await {
                Some((worker, Some(news))) => return Ok((worker, news)),
                Some((worker, None)) if self.all[worker].last.is_some() => {}
                Some((_, None)) | None => return Err(Error::WorkerEnded),
            }
        }
    }
}

async fn listen(number: usize, output: ChildStdout, news: mpsc::UnboundedSender<(usize, Option<News>)>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(parsed) = serde_json::from_str(&line) else { break };
        if news.send((number, Some(parsed))).is_err() {
            return;
        }
    }
    let _ = news.send((number, None));
}
