//! The suites of end-to-end tests, one module for each subject.

mod admin;
mod bootstrap;
mod check;
mod command_rows;
mod configurations;
mod continuity;
mod door;
mod explain;
mod faults_server;
mod faults_storage;
mod faults_workload;
mod floods;
mod jwt;
mod kubernetes;
mod life;
mod monitoring;
mod otlp;
mod peers;
mod profiles;
mod reload;
mod shells;
mod status_page;

use dev::{Entry, Options, Server};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        admin::trials(),
        bootstrap::trials(),
        check::trials(),
        command_rows::trials(),
        configurations::trials(),
        continuity::trials(),
        door::trials(),
        explain::trials(),
        jwt::trials(),
        life::trials(),
        faults_server::trials(),
        faults_storage::trials(),
        faults_workload::trials(),
        floods::trials(),
        kubernetes::trials(),
        monitoring::trials(),
        otlp::trials(),
        peers::trials(),
        profiles::trials(),
        reload::trials(),
        status_page::trials(),
        shells::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A server for trust domain `example.org`.
async fn server() -> Server {
    server_with(Options::default()).await
}

async fn server_with(options: Options) -> Server {
    Server::start(options).await.expect("the development server starts")
}

/// Registers every process of this user as `spiffe://example.org/NAME` with any agent that attests by this token.
fn register(server: &Server, token: &str, name: &str) -> String {
    let parent = server.join_token_agent_id(token);
    register_under(server, &parent, name)
}

fn register_under(server: &Server, parent: &str, name: &str) -> String {
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    server.create_entry(Entry::new(format!("spiffe://example.org/{name}"), parent, [&*uid]))
}

/// The SPIFFE IDs of a Workload API response.
fn ids(response: &proto::workload::X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| &*svid.spiffe_id).collect()
}
