package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mooringlib/mooring/download/repo"
)

// SourcePool says where images may come from. It is the seam where a product
// brings its own knowledge of peers, conductors and repositories.
//
// Sources is called at the beginning of every attempt, from one goroutine at a
// time, and returns the allowed sources in order of preference; the caller owns
// the slice. Returning none, or an error, ends the attempt, not the download.
type SourcePool interface {
	Sources(ctx context.Context) ([]Source, error)
}

// Source is one place that may have images.
type Source struct {
	// Name stands in errors and status; unique in a pool.
	Name string
	// Kind sets the order and the special role of the peer.
	Kind Kind
	// Fetcher does the work.
	Fetcher Fetcher
}

// Fetcher reads from one source. Implementations are safe for concurrent use,
// return promptly when ctx ends, and return a *[SourceError] where they know
// what went wrong. Nothing that they return is trusted before it is verified.
type Fetcher interface {
	// Index returns what the source has now.
	Index(ctx context.Context) (*repo.Index, error)
	// ChunkList returns the chunk list of an image, at most
	// repo.MaxChunkListBytes.
	ChunkList(ctx context.Context, m *repo.Manifest) ([]byte, error)
	// Open begins to read n bytes of the image from byte off. It may return a
	// body that begins earlier, or the whole image; see [Body]. ctx also
	// bounds reading the body.
	Open(ctx context.Context, m *repo.Manifest, off, n int64) (*Body, error)
}

// Body is a part of an image. The caller closes it.
type Body struct {
	io.ReadCloser
	// Offset is the position in the image of the first byte.
	Offset int64
	// Whole says that the source ignored the range and sends the image from
	// byte 0. It is then asked by one connection only.
	Whole bool
}

// Kind says what a source is to this node.
type Kind string

// The kinds, in the order in which they are tried.
const (
	KindPeer        Kind = "peer"
	KindConductor1  Kind = "conductor-1"
	KindConductor2  Kind = "conductor-2"
	KindArtifactory Kind = "artifactory"
	KindMistProxy   Kind = "mist-proxy"
)

// AccessMode says which kinds may be asked.
type AccessMode string

// The access modes.
const (
	// InternetOnly asks the peer, the artifactory and the Mist proxy.
	InternetOnly AccessMode = "internet-only"
	// PreferConductor asks everything.
	PreferConductor AccessMode = "prefer-conductor"
	// ConductorOnly asks the peer and the conductors.
	ConductorOnly AccessMode = "conductor-only"
	// OfflineMode asks the peer and the conductors; nothing remote is asked.
	OfflineMode AccessMode = "offline-mode"
)

var kindOrder = []Kind{KindPeer, KindConductor1, KindConductor2, KindArtifactory, KindMistProxy}

var modeKinds = map[AccessMode][]Kind{
	InternetOnly:    {KindPeer, KindArtifactory, KindMistProxy},
	PreferConductor: kindOrder,
	ConductorOnly:   {KindPeer, KindConductor1, KindConductor2},
	OfflineMode:     {KindPeer, KindConductor1, KindConductor2},
}

// ParseAccessMode returns the mode of that name.
func ParseAccessMode(s string) (AccessMode, error) {
	if _, ok := modeKinds[AccessMode(s)]; ok {
		return AccessMode(s), nil
	}
	return "", fmt.Errorf("download: access-mode %.60q: want one of internet-only, prefer-conductor, conductor-only, offline-mode", s)
}

// ParseKind returns the kind of that name.
func ParseKind(s string) (Kind, error) {
	if slices.Contains(kindOrder, Kind(s)) {
		return Kind(s), nil
	}
	names := make([]string, len(kindOrder))
	for i, k := range kindOrder {
		names[i] = string(k)
	}
	return "", fmt.Errorf("download: source kind %.60q: want one of %s", s, strings.Join(names, ", "))
}

type staticPool []Source

// NewPool returns a pool of the sources whose kind the mode allows, in the fixed
// order of the kinds; within a kind the given order stands. A source that the
// mode does not allow is never asked for anything.
func NewPool(mode AccessMode, sources ...Source) (SourcePool, error) {
	var errs []error
	kinds, ok := modeKinds[mode]
	if !ok {
		_, err := ParseAccessMode(string(mode))
		errs = append(errs, err)
	}
	if len(sources) > maxSources {
		errs = append(errs, fmt.Errorf("download: %d sources: want at most %d", len(sources), maxSources))
	}
	names := map[string]bool{}
	var out staticPool
	for _, s := range sources {
		if _, err := ParseKind(string(s.Kind)); err != nil {
			errs = append(errs, err)
		}
		if s.Name == "" || names[s.Name] {
			errs = append(errs, fmt.Errorf("download: source %.60q: want a name of its own", s.Name))
		}
		if s.Fetcher == nil {
			errs = append(errs, fmt.Errorf("download: source %.60q has no fetcher", s.Name))
		}
		names[s.Name] = true
		if slices.Contains(kinds, s.Kind) {
			out = append(out, s)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b Source) int {
		return slices.Index(kindOrder, a.Kind) - slices.Index(kindOrder, b.Kind)
	})
	return out, nil
}

// Sources implements [SourcePool].
func (p staticPool) Sources(context.Context) ([]Source, error) { return slices.Clone(p), nil }
