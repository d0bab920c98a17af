//! Neither the key nor the endpoint comes out, whatever happens and whoever echoes them.

use super::server::*;
use super::*;

/// Tells where a secret shows in a reply, in its JSON, in its `Debug` and in its texts.
fn assert_hidden(what: &str, reply: &Reply, endpoint: &str) {
    let record = error(reply);
    let json = serde_json::to_string(record).unwrap();
    let shown = [format!("{reply:?}"), format!("{record:?}"), format!("{record:#?}"), record.to_string(), json];
    for text in shown {
        assert!(!text.contains("canary"), "{what}: the key or host shows: {text}");
        assert!(!text.contains(endpoint), "{what}: the endpoint shows: {text}");
    }
}

#[tokio::test]
async fn no_failure_shows_the_key_or_the_endpoint() {
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{CHAT}");
    let page = format!("<html><head><title>{KEY}</title></head></html>");
    let echoes = [200, 301, 400, 401, 403, 404, 413, 418, 429, 500, 502, 503, 529].map(Script::Echo);
    let scripts = [
        Script::AnswerAndClose(String::new()),
        Script::AnswerAndReset(String::new()),
        Script::AnswerAndClose(cut.clone()),
        Script::AnswerAndReset(cut.clone()),
        Script::AnswerAndHang(String::new()),
        Script::AnswerAndHang(cut.clone()),
        Script::Drip(cut),
        Script::AnswerAndClose("SSH-2.0\r\n".to_owned()),
        Script::Answer(answer("200 OK", "", &page)),
        Script::Answer(answer("502 X", "", &page)),
        Script::Answer(answer("500 X", "", KEY)),
    ];
    for script in echoes.into_iter().chain(scripts) {
        let what = format!("{script:?}");
        let server = Server::start(script).await;
        let mut deployment = deployment(&server.base());
        deployment.timeouts.first_byte = Duration::from_millis(50);
        deployment.timeouts.idle = Duration::from_millis(50);
        deployment.timeouts.total = Duration::from_millis(200);
        let provider = provider(&deployment);
        assert_hidden(&what, &call(&provider).await, &server.address.to_string());
        assert!(!format!("{provider:?} {deployment:?}").contains("canary"));
    }
}

#[tokio::test]
async fn no_missing_connection_shows_the_key_or_the_endpoint() {
    let deaf = Server::start(Script::Deaf).await;
    for base in [
        "http://127.0.0.1:1/v1".to_owned(),
        "https://127.0.0.1:1/v1".to_owned(),
        format!("https://{}/v1", deaf.address),
        "http://canary-host.invalid/canary/v1".to_owned(),
        "https://canary-host.invalid/v1".to_owned(),
    ] {
        let mut deployment = deployment(&base);
        deployment.timeouts.connect = Duration::from_millis(50);
        let reply = call(&provider(&deployment)).await;
        assert!(!reply.sent);
        assert_hidden(&base, &reply, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_secret_at_the_cut_of_a_long_body_is_hidden_whole() {
    for before in (16 * 1024 - 30)..(16 * 1024 + 2) {
        let body = format!("{}{KEY}{}", "x".repeat(before), "y".repeat(9000));
        if before % 7 != 0 {
            continue;
        }
        let reply = called(Script::Answer(answer("500 X", "", &body))).await;
        let record = error(&reply);
        assert!(!record.body.as_deref().unwrap().contains("sk-"), "{before}");
        assert!(record.body_truncated && record.body.as_ref().unwrap().len() <= 16 * 1024);
    }
}
