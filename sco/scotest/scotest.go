package scotest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
)

// TestStore runs the kit. fresh prepares empty data and returns a function that
// opens a store on it; each call of that function stands for another process, or
// for the same one after it was restarted. Where the data lives and dies with
// the process, it returns the same store each time. Stores are closed by the
// test's Cleanup.
func TestStore(t *testing.T, fresh func(t *testing.T) (open func() sco.RouterStore)) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, func() sco.RouterStore)
	}{
		{"an empty store has nothing", testEmpty},
		{"create, change and delete", testLife},
		{"every field survives", testFields},
		{"each key finds its router", testKeys},
		{"keys belong to one router", testTaken},
		{"errors change nothing", testErrors},
		{"nothing is shared with the caller", testAliasing},
		{"lists are sorted and paged", testList},
		{"concurrent changes are not lost", testConcurrent},
		{"one of many claims wins", testRace},
		{"swapped keys do not deadlock", testSwap},
		{"cancellation", testCancel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
}

// Router returns a router with every field set, as a test may want it.
func Router(name string, assetIDs ...string) *sco.Router {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	r := &sco.Router{Name: name, InterNodeSecurity: "internal", Mode: sco.ModeStrong, Secret: sco.NewSecret()}
	for i, id := range assetIDs {
		r.Nodes = append(r.Nodes, sco.Node{
			Name: fmt.Sprintf("node%d", i), AssetID: id, Role: "combo",
			PCRs: map[int]string{7: strings.Repeat("ab", 32)},
			Status: sco.Status{
				State: sco.StateConnected, Since: at, Mode: sco.ModeStrong, Evidence: sco.EvidenceTPM,
				Binding: &sco.Binding{Kind: "endorsement-key", Fingerprint: "00ff", Since: at},
				SSHKey:  authorizedKey(newKey()), TLSGroup: "X25519MLKEM768",
				LastAttempt: at, LastError: "reason with \"quotes\", ünïcode and \x01",
				Link: sco.Link{Up: true, Since: at, Remote: "192.0.2.1:1", Conductor: "a", ID: "x"},
			},
		})
	}
	return r
}

func newKey() ssh.PublicKey {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return key
}

func authorizedKey(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func put(t *testing.T, s sco.RouterStore, r *sco.Router) {
	t.Helper()
	if err := set(s, r); err != nil {
		t.Fatalf("put %q: %v", r.Name, err)
	}
}

func set(s sco.RouterStore, r *sco.Router) error {
	return s.Update(context.Background(), r.Name, func(*sco.Router) (*sco.Router, error) { return r.Clone(), nil })
}

func encode(t *testing.T, r *sco.Router) string {
	t.Helper()
	b, err := sco.EncodeRouter(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func get(t *testing.T, s sco.RouterStore, key sco.Key) *sco.Router {
	t.Helper()
	r, err := s.Get(context.Background(), key)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return r
}

func absent(t *testing.T, s sco.RouterStore, key sco.Key) {
	t.Helper()
	if r, err := s.Get(context.Background(), key); !errors.Is(err, sco.ErrNotFound) || r != nil {
		t.Fatalf("get %q: %v, %v; want nil and ErrNotFound", key, r, err)
	}
}

func testEmpty(t *testing.T, open func() sco.RouterStore) {
	s := open()
	for _, k := range []sco.Key{sco.NameKey("r"), sco.AssetKey("a"), sco.SSHKey(newKey()), ""} {
		absent(t, s, k)
	}
	if l, err := s.List(context.Background(), "", 10); err != nil || len(l) != 0 {
		t.Fatalf("list: %v, %v", l, err)
	}
}

func testLife(t *testing.T, open func() sco.RouterStore) {
	ctx, s := context.Background(), open()
	calls := 0
	err := s.Update(ctx, "r", func(old *sco.Router) (*sco.Router, error) {
		calls++
		if old != nil {
			t.Errorf("a router that does not exist was handed over: %v", old.Name)
		}
		return Router("r", "a"), nil
	})
	if err != nil || calls != 1 {
		t.Fatalf("create: %v after %d calls", err, calls)
	}
	err = s.Update(ctx, "r", func(old *sco.Router) (*sco.Router, error) {
		if old == nil {
			t.Fatal("the router was not handed over")
		}
		old.Mode = sco.ModeWeak
		return old, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := get(t, open(), sco.NameKey("r")); r.Mode != sco.ModeWeak {
		t.Fatalf("mode is %v after a change", r.Mode)
	}
	for range 2 {
		// To delete what does not exist is no error.
		if err := s.Update(ctx, "r", func(*sco.Router) (*sco.Router, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	absent(t, open(), sco.NameKey("r"))
	absent(t, open(), sco.AssetKey("a"))
	if err := s.Update(ctx, "r", func(*sco.Router) (*sco.Router, error) { return Router("other"), nil }); err == nil {
		t.Fatal("a router of another name was stored")
	}
	absent(t, s, sco.NameKey("other"))
}

func testFields(t *testing.T, open func() sco.RouterStore) {
	want := Router("r", "a", "b")
	put(t, open(), want)
	if got := get(t, open(), sco.NameKey("r")); encode(t, got) != encode(t, want) {
		t.Fatalf("got  %s\nwant %s", encode(t, got), encode(t, want))
	}
}

func testKeys(t *testing.T, open func() sco.RouterStore) {
	s := open()
	r := Router("r", "a", "b")
	put(t, s, r)
	put(t, s, Router("q", "c"))
	for _, k := range r.Keys() {
		if got := get(t, open(), k); got.Name != "r" {
			t.Fatalf("%q finds router %q", k, got.Name)
		}
	}
	// Names, asset-ids and keys do not get mixed up.
	absent(t, s, sco.NameKey("a"))
	absent(t, s, sco.AssetKey("r"))
	// Byte order counts, not a locale's.
	absent(t, s, sco.NameKey("R"))
	absent(t, s, sco.AssetKey("A"))

	old := r.Keys()
	r.Nodes = r.Nodes[:1]
	r.Nodes[0].Status.SSHKey = authorizedKey(newKey())
	put(t, s, r)
	for _, k := range old {
		if slices.Contains(r.Keys(), k) {
			get(t, open(), k)
		} else {
			absent(t, open(), k)
		}
	}
	// What was given up is free for another.
	put(t, s, Router("p", "b"))
}

func testTaken(t *testing.T, open func() sco.RouterStore) {
	s := open()
	first, second := Router("first", "a"), Router("second", "b")
	put(t, s, first)
	put(t, s, second)
	before := encode(t, second)
	for name, change := range map[string]func(*sco.Router){
		"asset-id": func(r *sco.Router) { r.Nodes[0].AssetID = "a" },
		"SSH key":  func(r *sco.Router) { r.Nodes[0].Status.SSHKey = first.Nodes[0].Status.SSHKey },
	} {
		r := second.Clone()
		change(r)
		r.InterNodeSecurity = "changed"
		if err := set(open(), r); !errors.Is(err, sco.ErrKeyTaken) {
			t.Fatalf("%s: %v, want ErrKeyTaken", name, err)
		}
		if got := encode(t, get(t, open(), sco.NameKey("second"))); got != before {
			t.Fatalf("%s: the refused change was made: %s", name, got)
		}
		if got := get(t, open(), sco.AssetKey("a")); got.Name != "first" {
			t.Fatalf("%s: the key went to %q", name, got.Name)
		}
		get(t, s, sco.AssetKey("b"))
	}
}

func testErrors(t *testing.T, open func() sco.RouterStore) {
	s := open()
	put(t, s, Router("r", "a"))
	before := encode(t, get(t, s, sco.NameKey("r")))
	mine := errors.New("mine")
	err := s.Update(context.Background(), "r", func(r *sco.Router) (*sco.Router, error) {
		r.Nodes[0].AssetID = "z"
		return r, fmt.Errorf("because: %w", mine)
	})
	if !errors.Is(err, mine) {
		t.Fatalf("%v does not wrap the function's error", err)
	}
	if got := encode(t, get(t, open(), sco.NameKey("r"))); got != before {
		t.Fatalf("changed to %s", got)
	}
	absent(t, s, sco.AssetKey("z"))
}

func testAliasing(t *testing.T, open func() sco.RouterStore) {
	s := open()
	mine := Router("r", "a")
	err := s.Update(context.Background(), "r", func(*sco.Router) (*sco.Router, error) { return mine, nil })
	if err != nil {
		t.Fatal(err)
	}
	before := encode(t, mine)
	got := get(t, s, sco.NameKey("r"))
	for _, r := range []*sco.Router{mine, got} {
		r.Nodes[0].PCRs[7] = strings.Repeat("cd", 32)
		r.Nodes[0].Status.Binding.Fingerprint = "changed"
		r.Nodes[0].AssetID = "changed"
	}
	l, err := s.List(context.Background(), "", 1)
	if err != nil || len(l) != 1 {
		t.Fatal(l, err)
	}
	l[0].Nodes[0].Status.Binding.Fingerprint = "changed"
	if after := encode(t, get(t, s, sco.NameKey("r"))); after != before {
		t.Fatalf("changed to %s", after)
	}
}

func testList(t *testing.T, open func() sco.RouterStore) {
	ctx, s := context.Background(), open()
	names := []string{"A", "B", "Z", "a", "a-b", "a.b", "a_b", "aa", "b", "r1", "r10", "r2"}
	for _, n := range slices.Backward(names) {
		put(t, s, Router(n, "asset-"+n))
	}
	slices.Sort(names)
	for _, limit := range []int{1, 3, 5, 100} {
		var got []string
		for after := ""; ; {
			l, err := open().List(ctx, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(l) > limit {
				t.Fatalf("%d routers, the limit is %d", len(l), limit)
			}
			if len(l) == 0 {
				break
			}
			for _, r := range l {
				got, after = append(got, r.Name), r.Name
			}
		}
		if !slices.Equal(got, names) {
			t.Fatalf("with limit %d: %q, want %q", limit, got, names)
		}
	}
	if l, err := s.List(ctx, "zz", 5); err != nil || len(l) != 0 {
		t.Fatalf("after the last: %v, %v", l, err)
	}
}

func testConcurrent(t *testing.T, open func() sco.RouterStore) {
	const workers, each = 4, 20
	put(t, open(), Router("r", "a"))
	var wg sync.WaitGroup
	var failed atomic.Value
	for range workers {
		s := open()
		wg.Go(func() {
			for range each {
				err := s.Update(context.Background(), "r", func(r *sco.Router) (*sco.Router, error) {
					if r.Nodes[0].PCRs == nil {
						return nil, errors.New("a record without its fields")
					}
					r.Nodes[0].Status.Since = r.Nodes[0].Status.Since.Add(time.Second)
					return r, nil
				})
				if err != nil {
					failed.Store(err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(err)
	}
	start := Router("r", "a").Nodes[0].Status.Since
	if got := get(t, open(), sco.NameKey("r")).Nodes[0].Status.Since.Sub(start); got != workers*each*time.Second {
		t.Fatalf("%d changes are left of %d", got/time.Second, workers*each)
	}
}

// testRace lets many claim what only one may have: a router of their own with the
// same asset-id, and the binding of one node.
func testRace(t *testing.T, open func() sco.RouterStore) {
	const workers = 6
	unbound := Router("r", "r0")
	unbound.Nodes[0].Status = sco.Status{}
	put(t, open(), unbound)
	bound := errors.New("bound already")
	var wg sync.WaitGroup
	var created, claimed atomic.Int32
	var mu sync.Mutex
	unexpected := map[string]error{}
	for i := range workers {
		s := open()
		wg.Go(func() {
			name := fmt.Sprintf("w%d", i)
			switch err := set(s, Router(name, "contested")); {
			case err == nil:
				created.Add(1)
			case !errors.Is(err, sco.ErrKeyTaken):
				mu.Lock()
				unexpected[name+" creates"] = err
				mu.Unlock()
			}
			err := s.Update(context.Background(), "r", func(r *sco.Router) (*sco.Router, error) {
				if r.Nodes[0].Status.Binding != nil {
					return nil, bound
				}
				r.Nodes[0].Status.Binding = &sco.Binding{Kind: "ssh-key", Fingerprint: name}
				return r, nil
			})
			switch {
			case err == nil:
				claimed.Add(1)
			case !errors.Is(err, bound):
				mu.Lock()
				unexpected[name+" claims"] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for who := range maps.Keys(unexpected) {
		t.Errorf("%s: %v", who, unexpected[who])
	}
	if created.Load() != 1 || claimed.Load() != 1 {
		t.Fatalf("%d created and %d claimed, one each may", created.Load(), claimed.Load())
	}
}

// testSwap lets two routers take each other's place again and again.
func testSwap(t *testing.T, open func() sco.RouterStore) {
	a, b := Router("a", "1"), Router("b", "2")
	put(t, open(), a)
	put(t, open(), b)
	var wg sync.WaitGroup
	for _, r := range []*sco.Router{a, b} {
		s := open()
		wg.Go(func() {
			for i := range 20 {
				n := r.Clone()
				n.Nodes[0].AssetID = fmt.Sprint(1 + i%2)
				if err := set(s, n); err != nil && !errors.Is(err, sco.ErrKeyTaken) {
					t.Errorf("%s: %v", r.Name, err)
				}
			}
		})
	}
	wg.Wait()
	s := open()
	for _, name := range []string{"a", "b"} {
		r := get(t, s, sco.NameKey(name))
		if got := get(t, s, sco.AssetKey(r.Nodes[0].AssetID)); got.Name != name {
			t.Fatalf("router %q has asset-id %s, which finds %q", name, r.Nodes[0].AssetID, got.Name)
		}
	}
}

func testCancel(t *testing.T, open func() sco.RouterStore) {
	s := open()
	put(t, s, Router("r", "a"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Get(ctx, sco.NameKey("r")); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.List(ctx, "", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	err := s.Update(ctx, "r", func(*sco.Router) (*sco.Router, error) { return nil, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("update: %v", err)
	}
	get(t, s, sco.NameKey("r"))
}
