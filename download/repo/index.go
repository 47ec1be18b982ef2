package repo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// IndexPath is where a source keeps its index, relative to its base.
const IndexPath = "index.json"

const indexFormat = "mooring-index/1"

// State says what a source does with an image.
type State string

// The states. A static repository leaves the field out, which means complete.
const (
	// StateComplete says that every byte is there.
	StateComplete State = "complete"
	// StateDownloading says that the source is fetching the rest.
	StateDownloading State = "downloading"
	// StateStopped says that a part is there and nobody fetches the rest.
	StateStopped State = "stopped"
)

// Entry is one image of an index.
type Entry struct {
	// Envelope is the signed manifest.
	Envelope json.RawMessage `json:"envelope"`
	// State is empty for a static repository.
	State State `json:"state,omitempty"`
	// Have lists the chunks that are there when not all of them are, as
	// half-open ranges.
	Have Ranges `json:"have,omitempty"`
}

// Complete reports whether the source has every chunk.
func (e Entry) Complete() bool { return e.State == "" || e.State == StateComplete }

// Index is what a source says that it has.
type Index struct {
	Images []Entry
}

type wireIndex struct {
	Format string  `json:"format"`
	Images []Entry `json:"images"`
}

// ParseIndex reads an index. It checks shape and bounds; whether an envelope is
// worth anything is for a [Verifier] to say.
func ParseIndex(data []byte) (*Index, error) {
	if len(data) > MaxIndexBytes {
		return nil, fmt.Errorf("repo: index: %w: more than %d bytes", ErrMalformed, MaxIndexBytes)
	}
	var w wireIndex
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("repo: index: %w: %.200s", ErrMalformed, err.Error())
	}
	if w.Format != indexFormat {
		return nil, fmt.Errorf("repo: index: %w: format %.40q instead of %q", ErrMalformed, w.Format, indexFormat)
	}
	if len(w.Images) > maxImages {
		return nil, fmt.Errorf("repo: index: %w: more than %d images", ErrMalformed, maxImages)
	}
	for i, e := range w.Images {
		switch {
		case len(e.Envelope) > maxEnvelopeBytes:
			return nil, fmt.Errorf("repo: index: image %d: %w: envelope of more than %d bytes", i+1, ErrMalformed, maxEnvelopeBytes)
		case e.State != "" && e.State != StateComplete && e.State != StateDownloading && e.State != StateStopped:
			return nil, fmt.Errorf("repo: index: image %d: %w: state %.40q", i+1, ErrMalformed, string(e.State))
		}
	}
	return &Index{Images: w.Images}, nil
}

// Encode writes the index.
func (x *Index) Encode() ([]byte, error) {
	images := x.Images
	if images == nil {
		images = []Entry{}
	}
	return json.MarshalIndent(wireIndex{Format: indexFormat, Images: images}, "", " ")
}

// Ranges is a set of chunk numbers as half-open ranges that ascend and do not
// touch. Its text form is "0-12,14-20".
type Ranges [][2]int

// Contains reports whether chunk i is in the set.
func (r Ranges) Contains(i int) bool {
	k, found := slices.BinarySearchFunc(r, i, func(e [2]int, i int) int {
		switch {
		case e[1] <= i:
			return -1
		case e[0] > i:
			return 1
		}
		return 0
	})
	return found && r[k][0] <= i
}

// Count returns how many chunks are in the set.
func (r Ranges) Count() int {
	n := 0
	for _, e := range r {
		n += e[1] - e[0]
	}
	return n
}

// MarshalText implements [encoding.TextMarshaler].
func (r Ranges) MarshalText() ([]byte, error) {
	var b strings.Builder
	for i, e := range r {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d", e[0], e[1])
	}
	return []byte(b.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Ranges) UnmarshalText(text []byte) error {
	*r = nil
	if len(text) == 0 {
		return nil
	}
	last := -1
	for part := range strings.SplitSeq(string(text), ",") {
		a, b, ok := strings.Cut(part, "-")
		first, err1 := strconv.ParseUint(a, 10, 31)
		end, err2 := strconv.ParseUint(b, 10, 31)
		if !ok || err1 != nil || err2 != nil || end <= first || end > maxChunks || int(first) <= last || len(*r) >= maxHaveRanges {
			return fmt.Errorf("%w: chunk range %.40q", ErrMalformed, part)
		}
		*r = append(*r, [2]int{int(first), int(end)})
		last = int(end)
	}
	return nil
}
