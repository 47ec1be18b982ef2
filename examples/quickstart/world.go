package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// The names of the story.
const (
	routerName = "branch-7"
	nodeName   = "node0"
	assetID    = "SN19842256"
	hostname   = "conductor.example"
)

// world is everything that exists in the story.
type world struct {
	dir   string
	ctx   context.Context // of the background work
	stop  context.CancelFunc
	tasks sync.WaitGroup

	events *journal

	// The router's parts.
	tpm        *tpmsim.TPM
	ek         string
	enrollment *sco.Enrollment
	client     *tunnel.Client

	// The conductor's parts.
	ca          *authority
	registry    *sco.Registry
	issuer      *sco.Issuer
	token       sco.Token
	server      *tunnel.Server
	settings    *sco.Settings
	initialized chan string

	pki *pkiWorld
}

func newWorld() (*world, error) {
	dir, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, events: &journal{}, initialized: make(chan string, 1), pki: &pkiWorld{}}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w, nil
}

// close ends the background work and removes every trace.
func (w *world) close() error {
	w.stop()
	w.tasks.Wait()
	var errs []error
	if w.tpm != nil {
		errs = append(errs, w.tpm.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// serve runs f until the story ends.
func (w *world) serve(f func(ctx context.Context)) {
	w.tasks.Go(func() { f(w.ctx) })
}

// serveHTTP answers requests until the story ends.
func (w *world) serveHTTP(l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	w.serve(func(ctx context.Context) {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		_ = server.Serve(l)
	})
}

// listen opens a port on the loopback interface; the kernel chooses which.
func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// journal is the product's one sink for events and alarms.
type journal struct {
	mu     sync.Mutex
	events []mooring.Event
	alarms map[string]mooring.Alarm
}

func (j *journal) RecordEvent(_ context.Context, e mooring.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

func (j *journal) SetAlarm(_ context.Context, a mooring.Alarm) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.alarms == nil {
		j.alarms = map[string]mooring.Alarm{}
	}
	j.alarms[a.ID] = a
}

// summary counts the events of each type, in the order of their first.
func (j *journal) summary() facts {
	j.mu.Lock()
	defer j.mu.Unlock()
	count := map[string]int{}
	var order []string
	for _, e := range j.events {
		if count[e.Type] == 0 {
			order = append(order, e.Type)
		}
		count[e.Type]++
	}
	var found facts
	for _, kind := range order {
		found = append(found, fact{kind, fmt.Sprint(count[kind])})
	}
	return found
}

// authority is the organisation's certificate authority.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, serial: 1}, nil
}

// issue signs a certificate for a key.
func (a *authority) issue(name string, key crypto.PublicKey, usage x509.ExtKeyUsage, crl string) (*x509.Certificate, error) {
	a.serial++
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(a.serial),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
	}
	if crl != "" {
		template.CRLDistributionPoints = []string{crl}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
