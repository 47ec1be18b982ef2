package autoinstall

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"
)

// Schedule says when a device tries again (RFC 8886 section 4.3).
type Schedule struct {
	// Early is the time between attempts at first, 5 minutes when 0.
	Early time.Duration
	// EarlyFor is how long that lasts, counted from the first attempt of this
	// run, 1 hour when 0.
	EarlyFor time.Duration
	// Late is the time between attempts after that, 1 hour when 0. There is no
	// last attempt: devices may be installed long before their configuration.
	Late time.Duration
	// Jitter is the largest part of a delay, 0 to 1, that is added to it at
	// random, so that devices which got power together don't ask together.
	// 0 is 0.1; NoJitter is for tests.
	Jitter float64
	// NoJitter makes delays exact.
	NoJitter bool
}

func (s *Schedule) setDefaults() error {
	if s.Early < 0 || s.EarlyFor < 0 || s.Late < 0 {
		return errors.New("delays can't be negative")
	}
	if !(s.Jitter >= 0 && s.Jitter <= 1) {
		return errors.New("the jitter is not within 0 to 1")
	}
	setDefault(&s.Early, 5*time.Minute)
	setDefault(&s.EarlyFor, time.Hour)
	setDefault(&s.Late, time.Hour)
	setDefault(&s.Jitter, 0.1)
	return nil
}

// delay is the time until the next attempt, after elapsed since the first one.
func (s *Schedule) delay(elapsed time.Duration) time.Duration {
	d := s.Late
	if elapsed < s.EarlyFor {
		d = s.Early
	}
	if s.NoJitter {
		return d
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	share := float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
	return d + time.Duration(float64(d)*s.Jitter*share)
}
