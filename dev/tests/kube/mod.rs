//! The kubelet, the API server and the container runtime of `dev::kube`, by plain clients.

mod api_server;
mod client;
mod kubelet;
mod runtime;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [kubelet::trials(), api_server::trials(), runtime::trials()].into_iter().flatten().collect()
}
