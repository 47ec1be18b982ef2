package pki

import (
	"context"
	"crypto/sha1" // only for the fingerprint in the record
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki/verify"
)

// audit records an action. err, when not nil, makes it a refused one.
func (m *Manager) audit(ctx context.Context, kind, description string, err error, detail map[string]any) {
	if m.cfg.Events == nil {
		return
	}
	if err != nil {
		detail["error"] = capped(err.Error())
	}
	raw, jsonErr := json.Marshal(detail)
	if jsonErr != nil {
		m.cfg.Logger.ErrorContext(ctx, "audit detail", "error", jsonErr)
	}
	m.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type: kind, Time: m.now(), Node: m.cfg.Node, Description: description, Detail: raw, Permitted: err == nil,
	})
}

// ingestDetail is the record of a certificate that was handed in.
type ingestDetail struct {
	Purpose     string         `json:"purpose"`
	CommonName  string         `json:"common_name"`
	CRLURLs     []string       `json:"crl_urls"`
	Authority   string         `json:"certificate_authority"`
	Fingerprint string         `json:"fingerprint"`
	Issues      []verify.Issue `json:"issues,omitempty"`
}

func (m *Manager) auditIngest(ctx context.Context, name string, ev evaluation, permitted bool) {
	if m.cfg.Events == nil {
		return
	}
	d := ingestDetail{Purpose: "N/A", CommonName: "N/A", CRLURLs: []string{}, Authority: "N/A", Fingerprint: "N/A", Issues: ev.issues()}
	if c := ev.leaf; c != nil {
		d.Purpose, d.CommonName = purpose(c), capped(c.Subject.CommonName)
		d.CRLURLs = append(d.CRLURLs, c.CRLDistributionPoints...)
		if a := oneLine(c.Issuer); a != "" {
			d.Authority = a
		}
		d.Fingerprint = colons(sha1Sum(c.Raw))
	}
	raw, err := json.Marshal(d)
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "audit detail", "error", err)
	}
	m.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type: "system.ingest_certificate", Time: m.now(), Node: m.cfg.Node,
		Description: "Ingested certificate: " + capped(name), Detail: raw, Permitted: permitted,
	})
}

// sha1Sum is the fingerprint that the record has had from the beginning. Nothing
// is decided by it.
func sha1Sum(der []byte) []byte {
	sum := sha1.Sum(der)
	return sum[:]
}

func colons(b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%02X", c)
	}
	return strings.Join(parts, ":")
}

// purpose names the extended key usages as OpenSSL does.
func purpose(c *x509.Certificate) string {
	names := map[x509.ExtKeyUsage]string{
		x509.ExtKeyUsageAny: "Any Extended Key Usage", x509.ExtKeyUsageServerAuth: "TLS Web Server Authentication",
		x509.ExtKeyUsageClientAuth: "TLS Web Client Authentication", x509.ExtKeyUsageCodeSigning: "Code Signing",
		x509.ExtKeyUsageEmailProtection: "E-mail Protection", x509.ExtKeyUsageTimeStamping: "Time Stamping",
		x509.ExtKeyUsageOCSPSigning: "OCSP Signing",
	}
	var out []string
	for _, u := range c.ExtKeyUsage {
		if n := names[u]; n != "" {
			out = append(out, n)
		}
	}
	for _, oid := range c.UnknownExtKeyUsage {
		out = append(out, oid.String())
	}
	if len(out) == 0 {
		return "N/A"
	}
	return strings.Join(out, ", ")
}

// oneLine writes a name in the form "/C=US/O=Example/CN=ca" that the audit
// record uses.
func oneLine(n pkix.Name) string {
	short := map[string]string{"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.5": "serialNumber", "1.2.840.113549.1.9.1": "emailAddress"}
	var b strings.Builder
	for _, a := range n.Names {
		label := short[a.Type.String()]
		if label == "" {
			label = a.Type.String()
		}
		fmt.Fprintf(&b, "/%s=%v", label, a.Value)
	}
	return capped(b.String())
}
