//! The command `api fetch x509`, which is also `api fetch`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use proto::workload::X509svidResponse;
use tokio::time::Instant;

use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, duration, output, switch, text};
use super::print::{self, Format};
use super::socket::{self, SocketError};
use super::x509::{Certificate, Fetched, X509Error};
use super::{block_on, console};
use crate::golang;

/// Runs `api fetch x509`: prints the first answer of the Workload API.
pub(super) fn run(values: &Values) -> ExitCode {
    block_on(async {
        match fetch(values).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                console::err(&error.to_string());
                ExitCode::FAILURE
            }
        }
    })
}

async fn fetch(values: &Values) -> Result<(), FetchError> {
    let path = socket::path(values)?;
    let asked = Instant::now();
    let answer = client::within(values.duration("timeout"), first(&path)).await?;
    let took = asked.elapsed();
    match values.format() {
        Format::Json => console::out(&print::json(&answer)),
        Format::Pretty => show(&answer, values, took)?,
    }
    Ok(())
}

async fn first(path: &Path) -> Result<X509svidResponse, RpcError> {
    let channel = client::connect(path).await?;
    let mut stream = client::x509_svids(channel).await?;
    client::next(&mut stream).await
}

fn show(answer: &X509svidResponse, values: &Values, took: Duration) -> Result<(), FetchError> {
    let fetched = Fetched::parse(answer)?;
    fetched.verify(SystemTime::now())?;
    if !values.switch("silent") {
        console::out(&print::pretty(&fetched.svids, &fetched.federated, took));
    }
    match values.text("write") {
        "" => Ok(()),
        directory => write(&fetched, Path::new(directory)),
    }
}

/// Writes the SVIDs and bundles to files in `directory`, and prints each file's name.
fn write(fetched: &Fetched, directory: &Path) -> Result<(), FetchError> {
    for (n, svid) in fetched.svids.iter().enumerate() {
        let path = directory.join(format!("svid.{n}.pem"));
        console::out(&format!("Writing SVID #{n} to file {}.", path.display()));
        write_file(&path, certificates(&svid.chain).as_bytes(), Readers::All)?;

        let path = directory.join(format!("svid.{n}.key"));
        console::out(&format!("Writing key #{n} to file {}.", path.display()));
        write_file(&path, svid.key.pem().as_bytes(), Readers::Owner)?;

        let path = directory.join(format!("bundle.{n}.pem"));
        console::out(&format!("Writing bundle #{n} to file {}.", path.display()));
        write_file(&path, certificates(&svid.bundle).as_bytes(), Readers::All)?;

        for (m, (trust_domain, bundle)) in fetched.federated.iter().enumerate() {
            let path = directory.join(format!("federated_bundle.{n}.{m}.pem"));
            let name = path.display();
            console::out(&format!(
                "Writing federated bundle #{m} for trust domain {trust_domain} to file {name}."
            ));
            write_file(&path, certificates(bundle).as_bytes(), Readers::All)?;
        }
    }
    Ok(())
}

fn certificates(certificates: &[Certificate]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let encode = |c: &Certificate| pem::encode_config(&pem::Pem::new("CERTIFICATE", c.der.to_vec()), config);
    certificates.iter().map(encode).collect()
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    All,
    Owner,
}

fn write_file(path: &Path, text: &[u8], readers: Readers) -> Result<(), FetchError> {
    let failed = |source| FetchError::File { path: path.to_owned(), source };
    let mode = if readers == Readers::All { 0o644 } else { 0o600 };
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(failed)?;
    if readers == Readers::Owner {
        // An existing file may be readable by all.
        file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    file.write_all(text).map_err(failed)
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    X509(#[from] X509Error),
    #[error("open {}: {}", path.display(), golang::os_error(source))]
    File { path: PathBuf, source: io::Error },
}

/// The flags of `api fetch x509`.
pub(super) const FLAGS: FlagSet = FlagSet {
    name: "fetch x509",
    flags: &[
        socket::instance_flag(),
        output(),
        switch("silent", "Suppress stdout"),
        socket::path_flag(socket::USAGE),
        duration("timeout", 5, "Time to wait for a response"),
        text(
            "write",
            "",
            "Write SVID data to the specified path (optional; only available for pretty output format)",
        ),
    ],
};
