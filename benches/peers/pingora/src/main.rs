//! `pingora-peer PORT ORIGIN CERTIFICATE KEY`: TLS and HTTP/1.1 or HTTP/2 in front of one origin,
//! as the framework comes: one thread, keep-alive to the origin, no log.

use std::env;
use std::error::Error;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::tls::ssl::SslVersion;

struct Peer {
    origin: String,
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin.as_str(), false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", "https")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, origin, certificate, key] = arguments.as_slice() else {
        return Err("usage: pingora-peer PORT ORIGIN CERTIFICATE KEY".into());
    };
    let conf =
        ServerConf { threads: 1, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut tls = TlsSettings::intermediate(certificate, key)?;
    tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    tls.set_curves_list("X25519")?;
    tls.enable_h2();
    let proxy = Peer { origin: origin.clone() };
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tls_with_settings(&format!("127.0.0.1:{port}"), None, tls);
    server.add_service(service);
    server.run_forever()
}
