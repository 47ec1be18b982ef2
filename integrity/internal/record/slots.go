package record

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/mooringlib/mooring/internal/durable"
)

const (
	slotA = "record-a"
	slotB = "record-b"
	perm  = 0o600
)

// Slots is the directory with the two slots. It is not safe for concurrent use.
type Slots struct {
	Dir    string
	Writer durable.Writer
}

// Found is a record in its slot.
type Found struct {
	*Record
	slot string
}

// Load returns the valid records, the newest first. A slot that cannot be read
// or is damaged is reported in the error, beside the records of the other slot.
func (s Slots) Load() ([]Found, error) {
	var found []Found
	var errs []error
	for _, slot := range []string{slotA, slotB} {
		r, err := s.read(slot)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", slot, err))
			continue
		}
		found = append(found, Found{Record: r, slot: slot})
	}
	slices.SortFunc(found, func(a, b Found) int {
		if a.Generation > b.Generation {
			return -1
		}
		return 1
	})
	return found, errors.Join(errs...)
}

func (s Slots) read(slot string) (*Record, error) {
	f, err := os.Open(filepath.Join(s.Dir, slot))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return Parse(data)
}

// Store writes r as the next generation after newest, which may be nil, into the
// other slot, and reads it back from there.
func (s Slots) Store(newest *Found, r Record) (Found, error) {
	slot := slotA
	r.Generation = 1
	if newest != nil {
		r.Generation = newest.Generation + 1
		if newest.slot == slotA {
			slot = slotB
		}
	}
	data, err := r.Marshal()
	if err != nil {
		return Found{}, err
	}
	if err := s.Writer.WriteFile(filepath.Join(s.Dir, slot), data, perm); err != nil {
		return Found{}, fmt.Errorf("write %s: %w", slot, err)
	}
	back, err := s.read(slot)
	if err != nil {
		return Found{}, fmt.Errorf("read %s back: %w", slot, err)
	}
	return Found{Record: back, slot: slot}, nil
}

// Drop removes a record.
func (s Slots) Drop(f Found) error {
	if err := s.Writer.Remove(filepath.Join(s.Dir, f.slot)); err != nil {
		return fmt.Errorf("drop %s: %w", f.slot, err)
	}
	return nil
}
