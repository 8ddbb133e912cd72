//! A server without a database: its store connects on first use, to nothing.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use fathom_api::{Answer, Api, Config, CreateJob, ForkJob, Intent, IntentError};
use fathom_store::Store;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

/// The secret of the test server.
pub const SECRET: &str = "a-secret-of-32-characters-or-more";

/// Remembers what was wanted.
#[derive(Default)]
pub struct Wishes(pub Mutex<Vec<String>>);

impl Wishes {
    fn note(&self, wish: String) -> Answer<'_, ()> {
        self.0.lock().unwrap().push(wish);
        Box::pin(async { Ok(()) })
    }
}

impl Intent for Wishes {
    fn create(&self, job: CreateJob) -> Answer<'_, String> {
        self.0.lock().unwrap().push(format!("create {}", job.name));
        Box::pin(async { Ok("uid".to_owned()) })
    }

    fn pause<'a>(&'a self, _: &'a str, name: &'a str) -> Answer<'a, ()> {
        self.note(format!("pause {name}"))
    }

    fn resume<'a>(&'a self, _: &'a str, name: &'a str) -> Answer<'a, ()> {
        self.note(format!("resume {name}"))
    }

    fn cancel<'a>(&'a self, _: &'a str, name: &'a str) -> Answer<'a, ()> {
        self.note(format!("cancel {name}"))
    }

    fn fork(&self, fork: ForkJob) -> Answer<'_, String> {
        self.0.lock().unwrap().push(format!("fork {} to {}", fork.from, fork.name));
        Box::pin(async { Ok("uid-of-fork".to_owned()) })
    }

    fn plan<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Value> {
        Box::pin(async { Ok(json!({ "phases": [] })) })
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Err(IntentError::NotFound) })
    }
}

/// A server in local mode whose database is not there.
pub fn offline() -> Router {
    offline_with(|_| {})
}

/// The same with another configuration.
pub fn offline_with(change: impl FnOnce(&mut Config)) -> Router {
    let store = Store::lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let mut config = Config::local(SECRET.into(), [7; 32]);
    change(&mut config);
    fathom_api::router(Api::new(store, config, Arc::new(Wishes::default())))
}

/// A request from this machine with the secret.
pub fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:8080")
        .header("authorization", format!("Bearer {SECRET}"))
}

/// An answer, read to its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem as the contract has it. Returns its code.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        for field in ["type", "title", "detail", "instance", "code"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {problem}");
        }
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Sends a request.
pub async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

/// Sends JSON.
pub async fn send_json(router: &Router, method: Method, path: &str, body: &Value) -> Reply {
    let request = request(method, path).header("content-type", "application/json");
    send(router, request.body(Body::from(body.to_string())).unwrap()).await
}

/// Sends a GET.
pub async fn get(router: &Router, path: &str) -> Reply {
    send(router, request(Method::GET, path).body(Body::empty()).unwrap()).await
}
