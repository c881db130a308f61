//! `k8s_psat`: a projected service account token, read anew at each attempt (the kubelet rotates it).

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::NodeError;
use crate::file::load_text;

/// Where the token is and which cluster the server knows it under.
#[derive(Debug)]
pub struct K8sPsat {
    /// `cluster`.
    pub cluster: String,
    /// `token_path`.
    pub token_path: PathBuf,
}

impl K8sPsat {
    /// `{"cluster","token"}`; the token is not trimmed (SPIRE, `psat.go`).
    pub(super) async fn begin(&self) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        let read = load_text(&self.token_path, TOKEN_BYTES).await;
        let token = read.map_err(|source| NodeError::Unreadable { path: self.token_path.clone(), source })?;
        if token.is_empty() {
            return Err(NodeError::Empty(self.token_path.clone()));
        }
        let mut payload = Zeroizing::new(Vec::with_capacity(token.len() + self.cluster.len() + 64));
        // Written piece by piece: a JSON value would keep a copy of the token that nobody zeroizes.
        payload.extend_from_slice(b"{\"cluster\":");
        payload.extend_from_slice(serde_json::Value::from(&*self.cluster).to_string().as_bytes());
        payload.extend_from_slice(b",\"token\":");
        serde_json::to_writer(&mut *payload, &*token).expect("a string is JSON and memory takes it");
        payload.extend_from_slice(b"}");
        Ok(payload)
    }
}

/// Most that is read of a token: a thousand times what one has, and little beside what a node has.
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
