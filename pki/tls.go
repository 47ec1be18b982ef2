package pki

import (
	"context"
	"crypto/tls"
	"errors"
)

// GetCertificate returns a function for [tls.Config.GetCertificate] that always
// gives the certificate of the name that is in force.
func (m *Manager) GetCertificate(name string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.certificate(name) }
}

// GetClientCertificate is [Manager.GetCertificate] for clients.
func (m *Manager) GetClientCertificate(name string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.certificate(name) }
}

// VerifyConnection returns a function for [tls.Config.VerifyConnection] that
// validates the peer with [Manager.VerifyPeer]. It runs for resumed connections
// too, so a certificate that was revoked meanwhile is refused.
func (m *Manager) VerifyConnection(o PeerOptions) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		o := o // for this connection alone
		if o.Server && o.Name == "" {
			if o.Name = cs.ServerName; o.Name == "" {
				return errors.New("pki: the name of the server is not set, so it cannot be verified")
			}
		}
		// tls gives no context here; a checker answers from what it has.
		return m.VerifyPeer(context.Background(), cs.PeerCertificates, o)
	}
}

// TLSConfig returns a configuration for TLS 1.3 with mutual authentication: our
// certificate is that of the name, and the peer is validated as o says. It serves
// as a client when o.Server is set (set ServerName then), else as a server.
// The verification of crypto/tls is replaced by ours, not left out.
func (m *Manager) TLSConfig(name string, o PeerOptions) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		CurvePreferences:     []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		GetCertificate:       m.GetCertificate(name),
		GetClientCertificate: m.GetClientCertificate(name),
		ClientAuth:           tls.RequireAnyClientCert,
		InsecureSkipVerify:   true, // VerifyConnection does it
		VerifyConnection:     m.VerifyConnection(o),
		Time:                 m.cfg.Now,
	}
}
