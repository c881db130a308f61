//! Start-up, from leaf to root: log, limits, socket, door, APIs, health, and the life with the server. The agent then
//! runs until a signal arrives (exit code 0) or a fatal error occurs (exit code 1).

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use config::{Plugins, Settings};
use identity::TrustDomain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, error, info};
use transport::{BindError, Listener, Options};

pub(crate) use self::node::node_attestor;
use self::reload::Reload;
use self::running::{Running, Stop};
use self::succession::{Succession, Turn};
use crate::apis::admin::Admin;
use crate::apis::{self, Public};
use crate::continuity::{self, Changes, Continuity};
use crate::door::Admission;
use crate::door::shares::{SHARES, run_rounds};
use crate::explain::Inspector;
use crate::life::{Fatal, Lifecycle, Outlets, Stored};
use crate::otlp::Sink;
use crate::record::{self, Record};
use crate::status::Status;
use crate::telemetry::{Gauges, Metrics};
use crate::{logging, profiling, status_page, telemetry};

mod lines;
mod node;
mod reload;
mod running;
mod socket;
mod succession;
mod workload;

/// Runs the agent until a signal or a fatal error stops it. Writes out the last log lines before it returns.
#[must_use]
pub fn run(settings: Settings) -> ExitCode {
    // Before there are other threads: it changes the environment.
    let continuity = Continuity::take();
    let (level, format) = (settings.log_level, settings.log_format);
    let otlp = Sink::of(&settings);
    if let Some(records) = otlp.records() {
        logging::also_to(records);
    }
    if let Err(reason) =
        logging::start(level, format, settings.log_file.as_deref(), settings.log_source_location)
    {
        eprintln!("cannot open log_file: {reason}");
        return ExitCode::FAILURE;
    }
    let code = run_logged(settings, &otlp, continuity);
    logging::flush(LAST_LINES);
    code
}

fn run_logged(settings: Settings, otlp: &Sink, continuity: Continuity) -> ExitCode {
    // One thread. Slow work (keys, hashes, lists of pods) runs on threads of its own. All other work is so short that
    // handing it to another thread costs more than doing it (measured: `benches/REPORT.md`).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(reason) => {
            error!(target: logging::FATAL, error = %reason, "Agent crashed");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(agent(settings, otlp, continuity)) {
        Ok(()) => {
            info!("Agent stopped gracefully");
            ExitCode::SUCCESS
        }
        Err(fatal) => {
            error!(target: logging::FATAL, error = %fatal, "Agent crashed");
            ExitCode::FAILURE
        }
    };
    // After the last line of the log, so that the receiver has it.
    runtime.block_on(otlp.finish());
    // Does not wait for blocking tasks: none of them has anything left to save.
    runtime.shutdown_background();
    code
}

async fn agent(settings: Settings, otlp: &Sink, mut continuity: Continuity) -> Result<(), Fatal> {
    // Installed first, so that a signal stops the agent gracefully at any later moment.
    let mut stop = Stop { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? };
    let settings = Arc::new(settings);
    otlp.send_logs();
    let metrics = telemetry::start(&settings);
    let record = record(&settings)?;
    // Their default action would end the process.
    let user_signals = (on(SignalKind::user_defined1())?, on(SignalKind::user_defined2())?);
    lines::starting(&settings);
    let plugins = settings.plugins().map_err(|problems| Fatal::StartUp(problems_text(problems)))?.clone();
    let trust_domain = TrustDomain::parse(&settings.trust_domain);
    let trust_domain = trust_domain.map_err(|reason| Fatal::StartUp(format!("trust_domain: {reason}")))?;
    let proc = proc_folder();
    let bytes = Budget::new(SHARES);
    tokio::spawn(run_rounds(bytes.clone()));
    let options =
        Options { slots: connection_slots(), bytes: bytes.clone(), proc: proc.clone(), mode: 0o777 };
    succession::prepare(&mut continuity, &settings).await?;
    // Bound this early so that a final error ends the agent before it has done anything.
    let socket = socket_path(&settings);
    lines::creating_folder(socket.as_deref());
    let socket = socket.map(|path| first_try(path, &options, &mut continuity)).transpose()?;
    tighten_umask();
    profiling::start(settings.profiling.as_ref());
    let (ready, manager) = watch::channel(None);
    let attestors = workload::attestors(&plugins, &settings.experimental, &proc)?;
    let rates = settings.experimental.rate_limits;
    lines::plugins_loaded(&plugins);
    lines::rates(&rates);
    let (counted, recorded) = (metrics.clone(), record.clone());
    let admission = Arc::new(Admission::new(attestors, manager, rates, proc.clone(), counted, recorded));
    let (reconfigure, reconfigured) = watch::channel(None);
    let reload = Reload::new(&settings, &admission, proc, reconfigure);
    tokio::spawn(handle_user_signals(user_signals, metrics.clone(), record, reload));
    let status = Arc::new(Status::new());
    let public = Arc::new(Public::new(&settings, &admission, &status));
    let gauges = Gauges {
        metrics: metrics.clone(),
        status: Arc::clone(&status),
        manager: ready.subscribe(),
        bytes: bytes.clone(),
        held_names: public.held_names(),
    };
    telemetry::serve(&settings, gauges.clone(), otlp);
    let inspector = Inspector::new(Arc::clone(&admission), Arc::clone(&settings), gauges);
    let admin = admin_listener(&settings, &options, &mut continuity)?;
    let succession = Succession::begin(continuity, &settings.data_dir, &status);
    let admin = serve_operators(&settings, &admission, &status, inspector, (admin, &succession.turn));
    let continuity = Arc::clone(&succession.continuity);
    let apis = match socket {
        Some(socket) => {
            let when = (succession.turn.clone(), Arc::clone(&continuity));
            tokio::spawn(serve_apis(socket, options, Arc::clone(&settings), public, when))
        }
        None => {
            lines::not_serving();
            continuity.serves();
            tokio::spawn(std::future::pending())
        }
    };
    let (kept, own) = watch::channel(None);
    let outlets = Outlets {
        ready: ready.clone(),
        status: Arc::clone(&status),
        kept,
        changes: Changes::default(),
        metrics,
    };
    let successor = succession.watch(&outlets.changes, own, ready.subscribe());
    let attestor = (node_attestor(&settings, &plugins), reconfigured);
    let stored = stored(&settings, &plugins, &outlets.metrics, Arc::clone(&continuity));
    let mut stored = tokio::select! {
        stored = stored => stored?,
        () = stop.signalled() => return Ok(()),
    };
    let (recalled, changes) = (stored.recalled.take(), outlets.changes.clone());
    let lifecycle = Lifecycle::new(Arc::clone(&settings), trust_domain, attestor, stored, outlets)?;
    let running = Running { settings, status, bytes, ready, apis, admin, successor, changes, continuity };
    running.until_the_end(lifecycle, recalled, stop).await
}

/// Spawns what those need who look after the agent: health checks, the status page and the admin socket. Returns the task
/// of the last.
fn serve_operators(
    settings: &Arc<Settings>,
    admission: &Arc<Admission>,
    status: &Arc<Status>,
    inspector: Inspector,
    (admin, turn): (Option<Listener>, &Turn),
) -> JoinHandle<()> {
    if settings.health_checks.listener_enabled {
        tokio::spawn(apis::health::serve(settings.health_checks.clone(), Arc::clone(status)));
    }
    if let Some(address) = &settings.experimental.status_address {
        tokio::spawn(status_page::serve(address.clone(), inspector.clone()));
    }
    let Some(listener) = admin else { return tokio::spawn(std::future::pending()) };
    let apis = Arc::new(Admin::new(settings, admission, status, inspector));
    let mut turn = turn.clone();
    tokio::spawn(async move {
        turn.comes().await;
        apis::serve(listener, apis).await;
    })
}

/// Keeps what the agent makes from others. Called after the public socket's folder is made and before private files are
/// (SPIRE, `run_posix.go`).
fn tighten_umask() {
    let before = umask(Mode::empty()).bits();
    umask(Mode::from_bits_truncate(before | 0o027));
    lines::umask_changed(before, before | 0o027);
}

/// What an earlier run has stored.
async fn stored(
    settings: &Settings,
    plugins: &Plugins,
    metrics: &Metrics,
    continuity: Arc<Continuity>,
) -> Result<Stored, Fatal> {
    let reading = telemetry::names::GET_KEYS.start(metrics);
    let recall = move || continuity.recall();
    let stored = Stored::read(settings.data_dir.clone(), plugins.key_manager.clone(), recall).await;
    reading.end(if stored.is_ok() { "OK" } else { "Internal" });
    stored
}

/// Binds the admin socket, if one is configured. A socket file that a dead process left is replaced, as for the public
/// socket.
fn admin_listener(
    settings: &Settings,
    options: &Options,
    continuity: &mut Continuity,
) -> Result<Option<Listener>, Fatal> {
    let Some(path) = &settings.admin_socket_path else { return Ok(None) };
    lines::creating_admin_folder(Some(path));
    let options = Options { mode: 0o770, ..options.clone() };
    let listener = continuity.listen(continuity::ADMIN, path, options);
    let listener = listener.map_err(|reason| Fatal::StartUp(reason.to_string()))?;
    lines::serving_admin(path);
    Ok(Some(listener))
}

/// Handles SIGUSR1 and SIGUSR2, as long as the agent lives.
async fn handle_user_signals(
    (mut usr1, mut usr2): (Signal, Signal),
    metrics: Metrics,
    record: Record,
    mut reload: Reload,
) {
    loop {
        tokio::select! {
            _ = usr1.recv() => {
                telemetry::dump(&metrics);
                reload.run().await;
            }
            _ = usr2.recv() => {
                record.reopen();
                match logging::reopen().await {
                    Ok(()) => info!("Log file reopened"),
                    Err(reason) => error!(error = %reason, "Failed to reopen the log file"),
                }
            }
        }
    }
}

/// The issuance record, which goes to a file, too, if one is configured.
fn record(settings: &Settings) -> Result<Record, Fatal> {
    let Some(path) = &settings.experimental.issuance_log else { return Ok(Record::default()) };
    let file = record::File::start(path);
    let file = file.map_err(|reason| Fatal::StartUp(format!("issuance_log {}: {reason}", path.display())))?;
    Ok(Record::new(Some(file)))
}

fn on(kind: SignalKind) -> Result<Signal, Fatal> {
    signal(kind).map_err(|reason| Fatal::StartUp(format!("cannot handle signals: {reason}")))
}

/// The absolute path of the public socket; `None` when both of its APIs are disabled.
pub(crate) fn socket_path(settings: &Settings) -> Option<PathBuf> {
    let wanted = !(settings.disable_workload_api && settings.disable_sds_api);
    wanted
        .then(|| std::path::absolute(&settings.socket_path).unwrap_or_else(|_| settings.socket_path.clone()))
}

/// The public socket, or the error of the first attempt to bind it.
struct Socket {
    path: PathBuf,
    tried: Result<Listener, BindError>,
}

fn first_try(path: PathBuf, options: &Options, continuity: &mut Continuity) -> Result<Socket, Fatal> {
    let tried = continuity.listen(continuity::PUBLIC, &path, options.clone());
    match tried {
        Err(reason) if reason.is_final() => Err(Fatal::StartUp(reason.to_string())),
        tried => Ok(Socket { path, tried }),
    }
}

/// The limits on callers' connections. Raises the soft limit of open files to the hard one first.
fn connection_slots() -> budget::Limits {
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(reason) => {
                debug!(error = %reason, "Cannot raise the limit of open files");
                soft
            }
        },
        Err(_) => USUAL_FILES,
    };
    slots(files)
}

/// The connection limits for a process that may open this many files.
pub(crate) fn slots(files: u64) -> budget::Limits {
    let for_callers = files - FILES_RESERVE.min(files / 2);
    // A connection takes one descriptor, and the pidfd of its process may take another.
    let places = usize::try_from(for_callers / 2).unwrap_or(usize::MAX).clamp(2, CONNECTIONS);
    let spare = (places / 8).max(1);
    let whole = places - spare;
    budget::Limits { whole, spare, group: (whole - whole / 8).max(1), account: 1, work: u64::MAX }
}

/// Serves the public socket for ever, from when it can be had.
async fn serve_apis(
    socket: Socket,
    options: Options,
    settings: Arc<Settings>,
    public: Arc<Public>,
    (mut turn, continuity): (Turn, Arc<Continuity>),
) -> Fatal {
    let listener = match socket.tried {
        Ok(listener) => listener,
        Err(reason) => match socket::bound(reason, || Listener::bind(&socket.path, options.clone())).await {
            Ok(listener) => {
                continuity.hold(continuity::PUBLIC, &listener);
                listener
            }
            Err(reason) => return Fatal::StartUp(reason.to_string()),
        },
    };
    turn.comes().await;
    lines::serving(&settings, listener.path());
    continuity.serves();
    apis::serve(listener, public).await;
    Fatal::Stopped("the server of the public socket")
}

fn problems_text(problems: &[config::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The folder in which procfs is mounted: `HOST_PROC`, as spire-agent reads it, or `/proc`.
pub(crate) fn proc_folder() -> PathBuf {
    std::env::var_os("HOST_PROC")
        .filter(|value| !value.is_empty())
        .map_or_else(|| "/proc".into(), PathBuf::from)
}

/// How long a stopping agent waits for a slow reader of its log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// File descriptors kept for the agent itself: the server, health checks, files, attestors.
const FILES_RESERVE: u64 = 256;
/// The limit of open files that is assumed when `getrlimit` fails.
const USUAL_FILES: u64 = 1024;
/// The most connections that callers may have, however many files may be open, because each costs memory too.
const CONNECTIONS: usize = 65_536;

#[cfg(test)]
mod tests;
