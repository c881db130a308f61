//! The `k8s_psat` attestor: a projected service account token, read again for each attempt because the kubelet
//! rotates it.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::NodeError;
use crate::file::load_text;

/// The settings of the attestor.
#[derive(Debug)]
pub struct K8sPsat {
    /// The name under which the server knows the cluster (`cluster`).
    pub cluster: String,
    /// The file of the token (`token_path`).
    pub token_path: PathBuf,
}

impl K8sPsat {
    /// Makes the payload, `{"cluster": …, "token": …}`. The token is not trimmed (SPIRE, `psat.go`).
    pub(super) async fn begin(&self) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        let read = load_text(&self.token_path, TOKEN_BYTES).await;
        let token = read.map_err(|source| NodeError::Unreadable { path: self.token_path.clone(), source })?;
        if token.is_empty() {
            return Err(NodeError::Empty(self.token_path.clone()));
        }
        let mut payload = Zeroizing::new(Vec::with_capacity(token.len() + self.cluster.len() + 64));
        // It is written piece by piece, because a JSON value would hold a copy of the token that is not zeroized.
        payload.extend_from_slice(b"{\"cluster\":");
        payload.extend_from_slice(serde_json::Value::from(&*self.cluster).to_string().as_bytes());
        payload.extend_from_slice(b",\"token\":");
        serde_json::to_writer(&mut *payload, &*token).expect("a string is JSON and memory takes it");
        payload.extend_from_slice(b"}");
        Ok(payload)
    }
}

/// The most bytes that are read of a token: a thousand times the usual length, and little memory for a node.
const TOKEN_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_token_is_read_anew_and_not_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let psat = K8sPsat { cluster: "front\"end".into(), token_path: folder.path().join("token") };
        assert!(matches!(psat.begin().await, Err(NodeError::Unreadable { .. })));
        fs::write(&psat.token_path, "").unwrap();
        assert!(matches!(psat.begin().await, Err(NodeError::Empty(_))));
        for token in ["first\n", "second"] {
            fs::write(&psat.token_path, token).unwrap();
            let payload: serde_json::Value = serde_json::from_slice(&psat.begin().await.unwrap()).unwrap();
            assert_eq!(payload, serde_json::json!({"cluster": "front\"end", "token": token}));
        }
    }
}
