//! TLS 1.3 between peers, as libp2p specifies it (`/tls/1.0.0`), with the fastest cipher first.
//!
//! libp2p-tls always prefers ChaCha20-Poly1305, a fifth of the time of a transfer where the processor has instructions for AES,
//! and leaves no choice. So the handshake is put together here. What makes it libp2p's is libp2p-tls's own: a certificate says
//! who its holder is and is signed by that one's key (`certificate::generate`), and is checked for it (`certificate::parse`).
//! That the key is the one that was dialled is for the swarm to check, as with libp2p-tls.
//!
//! Around it are buffers: rustls reads 4 KiB at a time, and yamux writes the head of a frame by itself (`cork.rs`).

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

use crate::cork::Cork;

const ALPN: &[u8] = b"libp2p";
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// Bytes read from the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// Makes connections confidential, and tells who the peer is.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handshake broke, or the peer did not prove that it holds its key.
    #[error("the TLS handshake failed")]
    Handshake(#[from] io::Error),
    /// The peer's certificate does not say who it is.
    #[error("the peer's certificate is not one of libp2p's")]
    Certificate(#[from] certificate::ParseError),
}

impl Tls {
    /// Of the node with these keys.
    pub fn new(keys: &Keypair) -> Result<Tls, certificate::GenError> {
        let provider = Arc::new(provider());
        let (certificate, key) = certificate::generate(keys)?;
        let key = aws_lc_rs::sign::any_ecdsa_type(&key).expect("libp2p-tls makes ECDSA keys");
        // Given as they are: rustls does not know the certificate's extension, and would refuse it for that.
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(VERSIONS)
            .expect("the provider has ciphers for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Libp2pVerifier))
            .with_client_cert_resolver(resolver.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .expect("the provider has ciphers for TLS 1.3")
            .with_client_cert_verifier(Arc::new(Libp2pVerifier))
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn provider() -> CryptoProvider {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !has_aes() {
        cipher_suites.reverse();
    }
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// Whether the processor has instructions for AES; without them ChaCha20 is faster, and leaks nothing by its timing.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// A connection under TLS.
type Secured<C> = Cork<TlsStream<BufReader<C>>>;

/// Who the peer proved to be, and the connection.
fn identified<C>(stream: TlsStream<BufReader<C>>) -> Result<(PeerId, Secured<C>), Error> {
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([certificate]) => certificate::parse(certificate)?.peer_id(),
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    };
    Ok((peer, Cork::new(stream)))
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/tls/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Secured<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        let socket = BufReader::with_capacity(READ_BYTES, socket);
        async move { identified(TlsAcceptor::from(self.server).accept(socket).await?.into()) }.boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Secured<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        let socket = BufReader::with_capacity(READ_BYTES, socket);
        // With an address for a name none is sent, as the specification demands.
        let name = ServerName::from(Ipv4Addr::UNSPECIFIED);
        async move { identified(TlsConnector::from(self.client).connect(name, socket).await?.into()) }.boxed()
    }
}

/// Takes a peer with exactly one certificate, valid, signed by itself and by the key of the peer that it names, if the peer
/// signs the handshake with the certificate's key.
#[derive(Debug)]
struct Libp2pVerifier;

impl Libp2pVerifier {
    fn certificate(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("a peer of libp2p has one certificate".into()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Those that libp2p-tls can verify, the best first.
    fn schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("peers of libp2p speak TLS 1.3".into())
}

impl ServerCertVerifier for Libp2pVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.certificate(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Libp2pVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.certificate(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use futures::future::join;
    use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
    use libp2p::core::Endpoint;
    use libp2p::core::transport::memory::Channel;
    use libp2p::core::transport::{DialOpts, ListenerId, MemoryTransport, PortUse, Transport, TransportEvent};
    use libp2p::tls;
    use rustls::sign::SigningKey;

    use super::*;

    /// Both ends of a connection in memory.
    async fn pair() -> (Channel<Vec<u8>>, Channel<Vec<u8>>) {
        let mut transport = MemoryTransport::new().boxed();
        transport.listen_on(ListenerId::next(), "/memory/0".parse().unwrap()).unwrap();
        let address = transport.select_next_some().await.into_new_address().unwrap();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dial = transport.dial(address, options).unwrap();
        let accept = async {
            match transport.select_next_some().await {
                TransportEvent::Incoming { upgrade, .. } => upgrade.await,
                other => panic!("{other:?}"),
            }
        };
        let (dialled, accepted) = join(dial, accept).await;
        (dialled.unwrap(), accepted.unwrap())
    }

    /// Whom either side takes the other for, if it takes it, once bytes went both ways.
    async fn meet<A, B, SA, SB, EA, EB>(client: A, server: B) -> (Option<PeerId>, Option<PeerId>)
    where
        A: OutboundConnectionUpgrade<Channel<Vec<u8>>, Output = (PeerId, SA), Error = EA, Info = &'static str>,
        B: InboundConnectionUpgrade<Channel<Vec<u8>>, Output = (PeerId, SB), Error = EB, Info = &'static str>,
        SA: AsyncRead + AsyncWrite + Unpin,
        SB: AsyncRead + AsyncWrite + Unpin,
    {
        let (dialled, accepted) = pair().await;
        let client = async {
            let (peer, stream) = client.upgrade_outbound(dialled, "/tls/1.0.0").await.ok()?;
            talk(stream).await.map(|()| peer)
        };
        let server = async {
            let (peer, stream) = server.upgrade_inbound(accepted, "/tls/1.0.0").await.ok()?;
            talk(stream).await.map(|()| peer)
        };
        join(client, server).await
    }

    async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        stream.write_all(b"hello").await.ok()?;
        stream.flush().await.ok()?;
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.ok()?;
        (&heard == b"hello").then_some(())
    }

    #[tokio::test]
    async fn both_sides_learn_who_the_other_is_also_if_it_speaks_libp2ps_own_tls() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let known = (Some(b.public().to_peer_id()), Some(a.public().to_peer_id()));
        let ours = |keys| Tls::new(keys).unwrap();
        let theirs = |keys| tls::Config::new(keys).unwrap();
        assert_eq!(meet(ours(&a), ours(&b)).await, known);
        assert_eq!(meet(theirs(&a), ours(&b)).await, known);
        assert_eq!(meet(ours(&a), theirs(&b)).await, known);
    }

    #[tokio::test]
    async fn aes_is_used_where_the_processor_has_it() {
        let (dialled, accepted) = pair().await;
        let tls = Tls::new(&Keypair::generate_ed25519()).unwrap();
        let name = ServerName::from(Ipv4Addr::UNSPECIFIED);
        let connect = TlsConnector::from(tls.client).connect(name, dialled);
        let (client, server) = join(connect, TlsAcceptor::from(tls.server).accept(accepted)).await;
        let suite = client.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(server.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite(), suite);
        let best = if has_aes() { "TLS13_AES_128_GCM_SHA256" } else { "TLS13_CHACHA20_POLY1305_SHA256" };
        assert_eq!(suite.as_str(), Some(best));
    }

    /// One that shows these certificates, and signs with this key.
    fn shows(certificates: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Tls {
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(certificates, key)));
        let mut tls = Tls::new(&Keypair::generate_ed25519()).unwrap();
        Arc::make_mut(&mut tls.client).client_auth_cert_resolver = resolver.clone();
        Arc::make_mut(&mut tls.server).cert_resolver = resolver;
        tls
    }

    /// A peer's certificate, and the key that it is signed with.
    fn certified(peer: &Keypair) -> (CertificateDer<'static>, Arc<dyn SigningKey>) {
        let (certificate, key) = certificate::generate(peer).unwrap();
        (certificate, aws_lc_rs::sign::any_ecdsa_type(&key).unwrap())
    }

    /// Where what is signed lies in a certificate: the first element, after its own head and the certificate's, of 4 bytes each.
    fn signed(certificate: &CertificateDer<'_>) -> Range<usize> {
        let signed = 8..8 + usize::from(u16::from_be_bytes([certificate[6], certificate[7]]));
        assert!((200..certificate.len()).contains(&signed.end));
        signed
    }

    /// A certificate in which the holder is another, signed anew by itself. That the other's key signed it nobody but that one can say.
    fn renamed(
        certificate: &CertificateDer<'_>,
        key: &dyn SigningKey,
        from: &Keypair,
        to: &Keypair,
    ) -> CertificateDer<'static> {
        const ALGORITHM_BYTES: usize = 12;
        let [from, to] = [from, to].map(|keys| keys.public().encode_protobuf());
        let end = signed(certificate).end;
        let mut content = certificate[4..end].to_vec();
        let at = content.windows(from.len()).position(|window| window == from).unwrap();
        content[at..at + from.len()].copy_from_slice(&to);
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        let signature = signer.sign(&content).unwrap();
        content.extend_from_slice(&certificate[end..end + ALGORITHM_BYTES]);
        // A string of bits, of which all of the last byte count.
        content.extend([0x03, signature.len() as u8 + 1, 0]);
        content.extend(signature);
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [vec![0x30, 0x82, high, low], content].concat().into()
    }

    #[tokio::test]
    async fn who_does_not_prove_that_it_is_who_it_says_is_refused() {
        let (own, victim, honest) =
            (Keypair::generate_ed25519(), Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let ((certificate, key), (seen, _)) = (certified(&own), certified(&victim));
        let renamed = |to| renamed(&certificate, &*key, &own, to);
        for (what, certificates, is_taken) in [
            ("its own certificate", vec![certificate.clone()], true),
            ("the same, signed anew", vec![renamed(&own)], true),
            ("the victim's, without its key", vec![seen.clone()], false),
            ("one that names the victim, signed by its own key", vec![renamed(&victim)], false),
            ("its own, and the victim's", vec![certificate.clone(), seen.clone()], false),
            ("its own twice", vec![certificate.clone(), certificate.clone()], false),
            ("none", Vec::new(), false),
        ] {
            let (shows, tls) = (shows(certificates, key.clone()), Tls::new(&honest).unwrap());
            let [own, honest] = [&own, &honest].map(|keys| is_taken.then(|| keys.public().to_peer_id()));
            assert_eq!(meet(tls.clone(), shows.clone()).await, (own, honest), "{what}, when it is dialled");
            assert_eq!(meet(shows, tls).await, (honest, own), "{what}, when it dials");
        }
    }

    /// A record of a handshake, as TLS 1.2 has it: the message of this type, of this beginning and 32 random bytes before the rest.
    fn tls12(kind: u8, rest: &[u8]) -> Vec<u8> {
        let message = [&[3, 3], &[7; 32][..], rest].concat();
        let len = message.len() as u8;
        [&[22, 3, 3, 0, len + 4, kind, 0, 0, len], &message[..]].concat()
    }

    /// Says something as either end of a connection, and hears how the other ends it: by an alert, after what it may have said before.
    async fn answer_to(said: Vec<u8>, is_dialler: bool) -> (Vec<u8>, Error) {
        let (dialled, accepted) = pair().await;
        let tls = Tls::new(&Keypair::generate_ed25519()).unwrap();
        let (mut own, upgrade) = match is_dialler {
            true => (dialled, tls.upgrade_inbound(accepted, "/tls/1.0.0")),
            false => (accepted, tls.upgrade_outbound(dialled, "/tls/1.0.0")),
        };
        let mut heard = Vec::new();
        let talk = async {
            own.write_all(&said).await.unwrap();
            own.flush().await.unwrap();
            own.read_to_end(&mut heard).await.unwrap();
        };
        let (outcome, ()) = join(upgrade, talk).await;
        (heard, outcome.err().expect("it speaks TLS 1.2"))
    }

    #[tokio::test]
    async fn older_versions_are_not_spoken() {
        // No session, ECDHE-ECDSA with AES-128-GCM, no compression; of groups P-256, of signatures ECDSA with SHA-256.
        let hello = [0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
        let chosen = [0, 0xc0, 0x2b, 0];
        for (said, is_dialler) in [(tls12(1, &hello), true), (tls12(2, &chosen), false)] {
            let (heard, error) = answer_to(said, is_dialler).await;
            // A fatal alert: the version.
            assert!(heard.ends_with(&[0, 2, 2, 70]), "{:?} ends otherwise", heard.escape_ascii().to_string());
            assert!(matches!(&error, Error::Handshake(_)), "{error}");
        }
    }

    #[test]
    fn a_certificate_that_was_changed_anywhere_is_refused() {
        let (certificate, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let is_taken = |certificate: &CertificateDer<'_>| Libp2pVerifier.certificate(certificate, &[]).is_ok();
        assert!(is_taken(&certificate));
        for at in signed(&certificate) {
            let mut changed = certificate.to_vec();
            changed[at] ^= 0x10;
            assert!(!is_taken(&changed.into()), "byte {at}");
        }
    }
}
