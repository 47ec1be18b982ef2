package sco

import "github.com/mooringlib/mooring/internal/durable"

// SetDurable hands a test's writer to Onboard.
func (cfg *OnboardConfig) SetDurable(w durable.Writer) { cfg.durable = w }

// For the fuzz targets and the tests of single functions.
var (
	DecodeEnrollment = decodeEnrollment
	ParseSSHKey      = parseSSHKey
	VerifySSH        = verifySSH
	ParseChain       = parseChain
	CheckAddress     = checkAddress
	SSHKeyIn         = sshKey
)

// Encode is the stored form.
func (e *Enrollment) Encode() ([]byte, error) { return e.encode() }
