//! The kubelet, by a plain client.

use dev::kube::{
    Authority, Container, Kubelet, KubeletFault, KubeletOptions, Pod, Rights, container_id, crowd, pod_list,
};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::client::Client;
use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kubelet_lets_in_by_token_and_rights", lets_in_by_token_and_rights),
        trial("kubelet_lets_in_by_certificate", lets_in_by_certificate),
        trial("kubelet_read_only_port_lets_everybody_in", read_only_port),
        trial("kubelet_down_refuses_and_comes_back_on_its_ports", down_and_up),
        trial("kubelet_silent_answers_when_the_fault_is_over", silent_until_released),
        trial("kubelet_broken_answers", broken_answers),
        trial("kubelet_another_certificate", another_certificate),
        trial("pods_as_the_kubelet_tells_them", pods_as_told),
        trial("a_crowd_of_500_has_5_mib", a_crowd),
    ]
}

async fn lets_in_by_token_and_rights() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    let anonymous = secure(&kubelet);
    for (token, rights) in [("nothing", Rights::Nothing), ("pods", Rights::Pods), ("proxy", Rights::Proxy)] {
        kubelet.accept_token(token, rights);
    }
    let get =
        async |token: &str, path: &str| anonymous.clone().token(token).get(path).await.expect("an answer");
    assert_eq!(anonymous.get("/pods").await?, (401, "Unauthorized".into()));
    assert_eq!(get("unknown", "/pods").await, (401, "Unauthorized".into()));
    let forbidden = |subresources| {
        let user = "system:serviceaccount:spire:spire-agent";
        format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[{subresources}])\n")
    };
    assert_eq!(get("nothing", "/pods").await, (403, forbidden("pods proxy")));
    assert_eq!(get("pods", "/pods").await, (200, pod_list(&[])));
    assert_eq!(get("pods", "/").await, (403, forbidden("proxy")));
    assert_eq!(get("proxy", "/pods").await, (200, pod_list(&[])));
    assert_eq!(get("proxy", "/").await.0, 404);
    kubelet.refuse_token("pods");
    assert_eq!(get("pods", "/pods").await.0, 401);
    kubelet.accept_anonymous(Rights::Pods);
    assert_eq!(anonymous.get("/pods").await?.0, 200);
    assert_eq!(get("unknown", "/pods").await.0, 401);
    let asked = kubelet.asked("/pods", 8).await;
    assert!(asked.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert_eq!(kubelet.requests().len(), asked.len() + 2);
    Ok(())
}

async fn lets_in_by_certificate() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    let own = kubelet.authority().client("agent")?;
    let client = Client::tls(kubelet.address(), kubelet.authority(), Some(&own));
    assert_eq!(client.get("/pods").await?.0, 401);
    kubelet.accept_certificate("agent", Rights::Pods);
    assert_eq!(client.get("/pods").await?.0, 200);
    let strange = Authority::new()?.client("agent")?;
    assert!(Client::tls(kubelet.address(), kubelet.authority(), Some(&strange)).get("/pods").await.is_err());
    Ok(())
}

async fn read_only_port() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    let client = Client::plain(kubelet.read_only_address());
    assert_eq!(client.get("/pods").await?, (200, pod_list(&[])));
    assert_eq!(client.get("/").await?.0, 404);
    Ok(())
}

async fn down_and_up() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    kubelet.accept_anonymous(Rights::Pods);
    let (secure, plain) = (secure(&kubelet), Client::plain(kubelet.read_only_address()));
    for _ in 0..3 {
        kubelet.down().await;
        for client in [&secure, &plain] {
            let refused = client.get("/pods").await.expect_err("a refusal");
            let refused = refused.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
        }
        kubelet.up().await;
        assert_eq!(secure.get("/pods").await?.0, 200);
        assert_eq!(plain.get("/pods").await?.0, 200);
    }
    Ok(())
}

async fn silent_until_released() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    kubelet.accept_anonymous(Rights::Pods);
    kubelet.fault(KubeletFault::Silent);
    let client = secure(&kubelet);
    let released = async {
        kubelet.asked("/pods", 1).await;
        kubelet.fault(KubeletFault::None);
    };
    let (answer, ()) = tokio::join!(client.get("/pods"), released);
    assert_eq!(answer?.0, 200);
    Ok(())
}

async fn broken_answers() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    kubelet.accept_anonymous(Rights::Pods);
    let client = secure(&kubelet);
    kubelet.fault(KubeletFault::Status(500, "out of order".into()));
    assert_eq!(client.get("/pods").await?, (500, "out of order".into()));
    kubelet.fault(KubeletFault::Text("[[[[".into()));
    assert_eq!(client.get("/pods").await?, (200, "[[[[".into()));
    kubelet.fault(KubeletFault::Truncated);
    let (status, text) = client.get("/pods").await?;
    assert!(status == 200 && text == pod_list(&[])[..pod_list(&[]).len() / 2]);
    kubelet.fault(KubeletFault::CutOff);
    assert!(client.get("/pods").await.is_err());
    Ok(())
}

async fn another_certificate() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    kubelet.accept_anonymous(Rights::Pods);
    let client = secure(&kubelet);
    assert_eq!(client.clone().named("node").get("/pods").await?.0, 200);
    assert!(client.clone().named("other").get("/pods").await.is_err());
    kubelet.certificate(kubelet.authority(), &["other"]).await?;
    assert!(client.get("/pods").await.is_err());
    assert_eq!(client.clone().named("other").get("/pods").await?.0, 200);
    let strange = Authority::new()?;
    kubelet.certificate(&strange, &["127.0.0.1"]).await?;
    assert!(client.get("/pods").await.is_err());
    assert_eq!(Client::tls(kubelet.address(), &strange, None).get("/pods").await?.0, 200);
    Ok(())
}

async fn pods_as_told() -> Outcome {
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    let pod = Pod::new("shop", "web-1")
        .service_account("web")
        .on_node("node-7")
        .label("app", "web")
        .owner("ReplicaSet", "web")
        .container(Container::running("main", "img:1", &container_id("main")))
        .container(Container::waiting("late", "img:2"))
        .init_container(Container::unpublished("first", "img:3"));
    kubelet.pods(std::slice::from_ref(&pod));
    let (_, list) = Client::plain(kubelet.read_only_address()).json("/pods").await?;
    let told = &list["items"][0];
    assert_eq!(told["metadata"]["uid"], json!(pod.uid));
    assert_eq!(told["metadata"]["labels"], json!({ "app": "web" }));
    assert_eq!(told["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    assert_eq!(told["spec"]["serviceAccountName"], "web");
    assert_eq!(told["spec"]["nodeName"], "node-7");
    assert_eq!(told["spec"]["initContainers"][0]["image"], "img:3");
    let statuses = &told["status"]["containerStatuses"];
    assert_eq!(statuses[0]["containerID"], json!(format!("containerd://{}", container_id("main"))));
    assert_eq!(statuses[1]["imageID"], "");
    assert_eq!(statuses[1]["containerID"], Value::Null);
    assert_eq!(told["status"]["initContainerStatuses"], Value::Null);
    assert_eq!(told["status"]["ephemeralContainerStatuses"], Value::Null);
    Ok(())
}

async fn a_crowd() -> Outcome {
    let text = pod_list(&crowd(500));
    assert!((5 << 20..6 << 20).contains(&text.len()), "{} bytes", text.len());
    let list: Value = serde_json::from_str(&text)?;
    let id = format!("containerd://{}", container_id("crowd-499/main"));
    assert_eq!(list["items"][499]["status"]["containerStatuses"][0]["containerID"], json!(id));
    Ok(())
}

fn secure(kubelet: &Kubelet) -> Client {
    Client::tls(kubelet.address(), kubelet.authority(), None)
}
