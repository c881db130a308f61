//! Each fault takes effect, and its effect ends with it.

use std::time::Duration;

use dev::{Entry, Fault, Options, Server};
use libtest_mimic::Trial;
use proto::bundle::GetBundleRequest;
use proto::entry::GetAuthorizedEntriesRequest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::client::{Client, join};
use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("down_cuts_connections_and_comes_back_on_its_port", down_cuts_connections),
        trial("a_black_hole_answers_nobody", a_black_hole_answers_nobody),
        trial("slow_is_late", slow_is_late),
        trial("bad_entries_are_added", bad_entries_are_added),
        trial("the_server_can_be_somebody_else", the_server_can_be_somebody_else),
        trial("shutdown_frees_the_port", shutdown_frees_the_port),
    ]
}

async fn down_cuts_connections() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let (mut client, _) = join(&server).await?;
    server.fault(Fault::Down).await;
    assert!(client.bundle.get_bundle(GetBundleRequest::default()).await.is_err());
    assert!(TcpStream::connect(server.address()).await.is_err());
    server.fault(Fault::None).await;
    // The channel connects again.
    client.bundle.get_bundle(GetBundleRequest::default()).await?;
    Ok(())
}

async fn a_black_hole_answers_nobody() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let (mut client, _) = join(&server).await?;
    server.fault(Fault::BlackHole).await;
    TcpStream::connect(server.address()).await?;
    let call = timeout(PATIENCE, client.bundle.get_bundle(GetBundleRequest::default())).await;
    assert!(call.is_err(), "the call hangs");
    assert!(timeout(PATIENCE, Client::anonymous(&server)).await.is_err(), "a new connection hangs");
    server.fault(Fault::None).await;
    client.bundle.get_bundle(GetBundleRequest::default()).await?;
    Ok(())
}

async fn slow_is_late() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let mut client = Client::anonymous(&server).await?;
    server.fault(Fault::Slow(PATIENCE)).await;
    let begin = Instant::now();
    client.bundle.get_bundle(GetBundleRequest::default()).await?;
    assert!(begin.elapsed() >= PATIENCE);
    Ok(())
}

async fn bad_entries_are_added() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let (mut client, id) = join(&server).await?;
    server.create_entry(Entry::new("spiffe://example.org/a", id, ["unix:uid:1"]));
    server.fault(Fault::OneBadEntry).await;
    let whole = client.entry.get_authorized_entries(GetAuthorizedEntriesRequest::default());
    let entries = whole.await?.into_inner().entries;
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().any(|entry| entry.selectors.is_empty()));
    assert!(
        entries.iter().any(|entry| { entry.spiffe_id.as_ref().is_some_and(|id| id.trust_domain.is_empty()) })
    );
    Ok(())
}

async fn the_server_can_be_somebody_else() -> Outcome {
    let server = Server::start(Options::default()).await?;
    server.fault(Fault::WrongServerId).await;
    let client = Client::anonymous(&server).await?;
    assert_eq!(client.server_id, "spiffe://example.org/not/the/server");
    Ok(())
}

async fn shutdown_frees_the_port() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let port = server.address().port();
    let (mut client, _) = join(&server).await?;
    server.shutdown().await;
    assert!(client.bundle.get_bundle(GetBundleRequest::default()).await.is_err());
    Server::start(Options { port, ..Options::default() }).await?;
    Ok(())
}

const PATIENCE: Duration = Duration::from_millis(300);
