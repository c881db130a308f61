//! Faults of the kubelet, and of the credentials for it.

use dev::kube::{Authority, KubeletFault, Pod, Rights, crowd};
use harness::trial;
use libtest_mimic::Trial;

use super::{Node, PATIENT, Setup, cgroup, kubelet, web};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("k8s_kubelet_down", down),
        trial("k8s_kubelet_down_costs_only_its_own_selectors", partial),
        trial("k8s_kubelet_slow", slow),
        trial("k8s_kubelet_401", unauthorized),
        trial("k8s_kubelet_403", forbidden),
        trial("k8s_kubelet_500", internal_error),
        trial("k8s_kubelet_of_an_unknown_authority", unknown_authority),
        trial("k8s_kubelet_with_another_name", another_name),
        trial("k8s_kubelet_unverified_when_asked_to", unverified),
        trial("k8s_kubelet_truncated_list", truncated),
        trial("k8s_kubelet_list_cut_off", cut_off),
        trial("k8s_kubelet_hostile_json", hostile),
        trial("k8s_kubelet_500_pods_of_5_mib", five_hundred_pods),
        trial("k8s_kubelet_says_which_right_it_was_asked_by", rights),
        trial("k8s_kubelet_read_only_port", read_only_port),
        trial("k8s_kubelet_anonymous", anonymous),
        trial("k8s_kubelet_client_disabled", disabled),
    ]
}

async fn down() {
    let mut node = Node::usual().await;
    node.kubelet.down().await;
    let reason =
        format!("unable to perform request: cannot connect to 127.0.0.1:{}", node.kubelet.address().port());
    node.is_refused("Unavailable", &reason).await;
    node.kubelet.up().await;
    node.gets_web().await;
}

async fn partial() {
    let kubelet = kubelet(&[web()]);
    kubelet.down().await;
    let mut node = Setup { unix: true, ..Setup::new() }.start(kubelet).await;
    assert_eq!(node.svids().await, Ok(vec!["spiffe://example.org/user".to_owned()]));
    node.logs_failure("Unavailable", "unable to perform request").await;
    node.kubelet.up().await;
    let mut both = node.svids().await.expect("served");
    both.sort_unstable();
    assert_eq!(both, ["spiffe://example.org/user", "spiffe://example.org/web"]);
}

async fn slow() {
    let mut node = Node::usual().await;
    node.kubelet.fault(KubeletFault::Silent);
    node.is_refused("Unavailable", "the kubelet did not answer within 10s").await;
    // One request was made. Its answer serves later callers.
    assert_eq!(node.kubelet.asked("/pods", 1).await.len(), 1);
    node.kubelet.fault(KubeletFault::None);
    node.gets_web().await;
}

async fn unauthorized() {
    let mut node = Node::usual().await;
    node.kubelet.refuse_token(super::TOKEN);
    node.is_refused("Unavailable", "unexpected status code on pods response: 401 Unauthorized").await;
    assert!(!node.agent.log().contains(super::TOKEN));
}

async fn forbidden() {
    let mut node = Node::usual().await;
    node.kubelet.accept_token(super::TOKEN, Rights::Nothing);
    let text = "unexpected status code on pods response: 403 Forbidden (user=system:serviceaccount:spire:spire-agent, \
                verb=get, resource=nodes, subresource(s)=[pods proxy])";
    node.is_refused("Unavailable", text).await;
}

async fn internal_error() {
    let mut node = Node::usual().await;
    node.kubelet.fault(KubeletFault::Status(500, "out of order\n".repeat(1000)));
    node.is_refused("Unavailable", "unexpected status code on pods response: 500 out of order").await;
    // The log has at most 1 KiB of the kubelet's text.
    assert!(node.agent.log().matches("out of order").count() < 40 * 80, "{}", node.agent.log());
    node.kubelet.fault(KubeletFault::None);
    node.gets_web().await;
}

async fn unknown_authority() {
    let mut node = Node::usual().await;
    let strange = Authority::new().expect("made");
    node.kubelet.certificate(&strange, &["127.0.0.1"]).await.expect("made");
    node.is_refused("Unavailable", "x509: certificate signed by unknown authority").await;
}

/// With a node name the kubelet's certificate must have that name. Without one it may have any.
async fn another_name() {
    let kubelet = kubelet(&[web()]);
    kubelet.certificate(kubelet.authority(), &["another"]).await.expect("made");
    Setup::new().start(kubelet).await.gets_web().await;

    let kubelet = super::kubelet(&[web()]);
    kubelet.certificate(kubelet.authority(), &["another"]).await.expect("made");
    let mut node = Setup::new().plugin("node_name = \"localhost\"").start(kubelet).await;
    node.is_refused("Unavailable", "x509: certificate is valid for another, not localhost").await;
    node.kubelet.certificate(node.kubelet.authority(), &["localhost"]).await.expect("made");
    node.gets_web().await;
}

async fn unverified() {
    let kubelet = kubelet(&[web()]);
    let strange = Authority::new().expect("made");
    kubelet.certificate(&strange, &["another"]).await.expect("made");
    Setup::new().plugin("skip_kubelet_verification = true").start(kubelet).await.gets_web().await;
}

async fn truncated() {
    let mut node = Node::usual().await;
    node.kubelet.fault(KubeletFault::Truncated);
    node.is_refused("Unavailable", "unable to parse kubelet response: EOF while parsing").await;
}

async fn cut_off() {
    let mut node = Node::usual().await;
    node.kubelet.fault(KubeletFault::CutOff);
    node.is_refused("Unavailable", "unable to perform request: ").await;
    node.kubelet.fault(KubeletFault::None);
    node.gets_web().await;
}

async fn hostile() {
    let mut node = Node::usual().await;
    let deep = format!("{{\"items\":[{{\"spec\":{}", "[".repeat(100_000));
    for (text, reason) in [
        ("not JSON", "unable to parse kubelet response: "),
        ("{}", "invalid kubelet response: expected an items array"),
        ("{\"items\":7}", "unable to parse kubelet response: "),
        ("{\"items\":[{\"metadata\":{\"uid\":[]}}]}", "unable to parse kubelet response: "),
        ("{\"items\":[]} and more", "unable to parse kubelet response: "),
        (&deep, "unable to parse kubelet response: "),
    ] {
        node.kubelet.fault(KubeletFault::Text(text.to_owned()));
        node.is_refused("Unavailable", reason).await;
    }
    // Go's `null`, and pods without fields.
    for text in
        ["{\"items\":null}", "{\"items\":[{},{\"metadata\":null,\"status\":{\"containerStatuses\":null}}]}"]
    {
        node.kubelet.fault(KubeletFault::Text(text.to_owned()));
        node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
    }
    node.kubelet.fault(KubeletFault::None);
    node.gets_web().await;
}

async fn five_hundred_pods() {
    let mut pods = crowd(499);
    pods.insert(250, Pod { bulky: true, ..web() });
    let mut node = Setup { budget: PATIENT, ..Setup::new() }.start(kubelet(&pods)).await;
    node.gets_web().await;
    node.agent.logged("k8s:pod-name:web").await;
    let log = node.agent.log();
    assert!(!log.contains("crowd"), "{log}");
}

async fn rights() {
    let mut node = Node::usual().await;
    node.gets_web().await;
    node.agent.logged("Kubelet access by the right to nodes/pods alone").await;

    let kubelet = kubelet(&[web()]);
    let setup = Setup::new();
    let mut node = setup.start(kubelet).await;
    node.kubelet.accept_token(super::TOKEN, Rights::Proxy);
    node.gets_web().await;
    node.agent.logged("Kubelet access by the right to nodes/proxy").await;
}

async fn read_only_port() {
    let kubelet = kubelet(&[web()]);
    let port = kubelet.read_only_address().port();
    let setup = Setup { kubelet: false, files: false, ..Setup::new() };
    let mut node = setup.plugin(&format!("kubelet_read_only_port = {port}")).start(kubelet).await;
    node.gets_web().await;
    node.kubelet.down().await;
    node.proc.set("cgroup", &cgroup("another"));
    node.is_refused("Unavailable", &format!("cannot connect to 127.0.0.1:{port}")).await;
}

async fn anonymous() {
    let kubelet = kubelet(&[web()]);
    kubelet.accept_anonymous(Rights::Pods);
    let node = Setup::new().plugin("use_anonymous_authentication = true").start(kubelet).await;
    node.kubelet.refuse_token(super::TOKEN);
    node.gets_web().await;
}

async fn disabled() {
    let setup = Setup { kubelet: false, files: false, ..Setup::new() };
    let mut node = setup.plugin("disable_kubelet_client = true").start(kubelet(&[web()])).await;
    node.is_refused("FailedPrecondition", "kubelet client is disabled").await;
    assert_eq!(node.kubelet.requests(), []);
}
