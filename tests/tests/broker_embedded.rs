//! The broker suite on the embedded broker, and what is its own.

use std::sync::Arc;

use gristmill_common::broker::{Broker, EmbeddedBroker};
use gristmill_common::clock::SystemClock;
use gristmill_common::store::SqliteStore;
use gristmill_tests::suite::broker::Scene;

async fn scene() -> Scene {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().join("gristmill.db");
    let connect = move || {
        let path = path.clone();
        async move {
            let store = SqliteStore::open(&path, Arc::new(SystemClock)).await.unwrap();
            Arc::new(EmbeddedBroker::new(&store)) as Arc<dyn Broker>
        }
    };
    Scene::new(connect, folder)
}

gristmill_tests::broker_suite!(scene);
