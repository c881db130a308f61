//! The API server, by a plain client.

use dev::kube::{ApiServer, Pod, Resource};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::client::{Client, Stream};
use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("api_server_lists_by_node_and_watches_from_there", lists_and_watches),
        trial("api_server_watch_is_cut_and_goes_on", a_watch_is_cut),
        trial("api_server_watch_too_old", a_watch_too_old),
        trial("api_server_namespaces_whole_and_metadata_only", namespaces),
        trial("api_server_refusals", refusals),
        trial("api_server_down_cuts_watches", down),
        trial("api_server_kubeconfig", kubeconfig),
    ]
}

async fn lists_and_watches() -> Outcome {
    let server = ApiServer::start()?;
    let client = client(&server);
    let here = Pod::new("shop", "here");
    server.apply_pod(&here);
    server.apply_pod(&Pod::new("shop", "there").on_node("elsewhere"));
    let (_, list) = client.json(ON_NODE).await?;
    assert_eq!(list["kind"], "PodList");
    assert_eq!(names(&list), ["here"]);
    let (_, all) = client.json("/api/v1/pods?limit=500").await?;
    assert_eq!(names(&all), ["here", "there"]);

    // A change between list and watch is not missed.
    server.apply_pod(&Pod::new("shop", "between"));
    let mut watch = watch(&client, version(&list)).await;
    assert_eq!(next(&mut watch).await, ("ADDED".into(), "between".into()));
    server.apply_pod(&Pod::new("shop", "other").on_node("elsewhere"));
    server.apply_pod(&here.clone().label("a", "b"));
    assert_eq!(next(&mut watch).await, ("MODIFIED".into(), "here".into()));
    server.delete_pod(&here);
    assert_eq!(next(&mut watch).await, ("DELETED".into(), "here".into()));
    server.bookmark();
    let bookmark = watch.next().await?.ok_or("the watch has ended")?;
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], json!("7"));
    assert_eq!(server.listed("/api/v1/pods", 2).await.len(), 2);
    assert_eq!(server.watched("/api/v1/pods", 1).await.len(), 1);
    Ok(())
}

async fn a_watch_is_cut() -> Outcome {
    let server = ApiServer::start()?;
    let client = client(&server);
    let mut first = watch(&client, "1").await;
    server.cut_watches();
    assert_eq!(first.next().await?, None);
    server.apply_pod(&Pod::new("shop", "meanwhile"));
    let mut second = watch(&client, "1").await;
    assert_eq!(next(&mut second).await, ("ADDED".into(), "meanwhile".into()));
    Ok(())
}

async fn a_watch_too_old() -> Outcome {
    let server = ApiServer::start()?;
    let client = client(&server);
    server.apply_pod(&Pod::new("shop", "old"));
    let mut open = watch(&client, "2").await;
    server.expire_watches();
    let mut late = watch(&client, "2").await;
    for watch in [&mut open, &mut late] {
        let message = watch.next().await?.ok_or("the watch has ended")?;
        assert_eq!((&message["type"], &message["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(message["object"]["message"], "too old resource version: 2 (3)");
        assert_eq!(watch.next().await?, None);
    }
    let (_, list) = client.json(ON_NODE).await?;
    let mut anew = watch(&client, version(&list)).await;
    server.apply_pod(&Pod::new("shop", "new"));
    assert_eq!(next(&mut anew).await, ("ADDED".into(), "new".into()));
    Ok(())
}

async fn namespaces() -> Outcome {
    let server = ApiServer::start()?;
    let client = client(&server);
    server.apply_namespace("shop", &[("team", "red")]);
    let (status, whole) = client.json("/api/v1/namespaces/shop").await?;
    assert_eq!(
        (status, &whole["kind"], &whole["status"]["phase"]),
        (200, &json!("Namespace"), &json!("Active"))
    );
    let partial =
        client.clone().header("accept", format!("application/json;as={PARTIAL};g=meta.k8s.io;v=v1"));
    let (_, shop) = partial.json("/api/v1/namespaces/shop").await?;
    assert_eq!((&shop["kind"], &shop["status"]), (&json!(PARTIAL), &Value::Null));
    assert_eq!(shop["metadata"]["labels"], json!({ "team": "red" }));
    assert_eq!(client.json("/api/v1/namespaces/other").await?.0, 404);

    let (_, list) = partial.json("/api/v1/namespaces").await?;
    assert_eq!((&list["kind"], names(&list)), (&json!("PartialObjectMetadataList"), vec!["shop"]));
    let path = format!("/api/v1/namespaces?watch=1&resourceVersion={}", version(&list));
    let mut watch = partial.stream(&path).await?;
    server.delete_namespace("shop");
    assert_eq!(next(&mut watch).await, ("DELETED".into(), "shop".into()));
    Ok(())
}

async fn refusals() -> Outcome {
    let server = ApiServer::start()?;
    let anonymous = Client::tls(server.address(), server.authority(), None);
    assert_eq!(anonymous.json(ON_NODE).await?.0, 401);
    assert_eq!(anonymous.clone().token("wrong").json(ON_NODE).await?.0, 401);
    server.accept_token("second");
    server.refuse_token("token");
    assert_eq!(client(&server).json(ON_NODE).await?.0, 401);
    let second = anonymous.token("second");
    server.refuse(Resource::Pods, Some(403));
    let (status, refusal) = second.json(ON_NODE).await?;
    assert_eq!((status, &refusal["kind"], &refusal["reason"]), (403, &json!("Status"), &json!("Forbidden")));
    assert_eq!(second.json("/api/v1/namespaces").await?.0, 200);
    server.refuse(Resource::Pods, None);
    assert_eq!(second.json(ON_NODE).await?.0, 200);
    assert_eq!(second.get("/apis").await?.0, 404);
    Ok(())
}

async fn down() -> Outcome {
    let server = ApiServer::start()?;
    let client = client(&server);
    let mut watch = watch(&client, "1").await;
    server.down().await;
    assert!(watch.next().await.is_err());
    assert!(client.get(ON_NODE).await.is_err());
    server.up().await;
    assert_eq!(client.json(ON_NODE).await?.0, 200);
    Ok(())
}

async fn kubeconfig() -> Outcome {
    let server = ApiServer::start()?;
    let config: Value = serde_json::from_str(&server.kubeconfig())?;
    let cluster = &config["clusters"][0]["cluster"];
    assert_eq!(cluster["server"], json!(format!("https://{}", server.address())));
    assert_eq!(config["users"][0]["user"]["token"], "token");
    Ok(())
}

fn client(server: &ApiServer) -> Client {
    Client::tls(server.address(), server.authority(), None).token("token")
}

async fn watch(client: &Client, version: &str) -> Stream {
    client.stream(&format!("{ON_NODE}&watch=true&resourceVersion={version}")).await.expect("an answer")
}

/// The type of the next event and the name of its object.
async fn next(watch: &mut Stream) -> (String, String) {
    let event = watch.next().await.expect("a watch").expect("an event");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn version(list: &Value) -> &str {
    list["metadata"]["resourceVersion"].as_str().expect("a version")
}

const ON_NODE: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode";
const PARTIAL: &str = "PartialObjectMetadata";
