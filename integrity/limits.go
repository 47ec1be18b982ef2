package integrity

import "time"

const (
	defaultRetryMin = 5 * time.Second
	defaultRetryMax = 5 * time.Minute
	defaultWatch    = 10 * time.Second
	// transientTries is how often a failure that may pass is met before it
	// counts as an integrity event, transientWait how long between.
	transientTries = 3
	transientWait  = 300 * time.Millisecond
	// lockWait is how long a Handler waits for another one at work, longer than
	// an operation on the TPM may take; lockPoll is how often it looks.
	lockWait = 90 * time.Second
	lockPoll = 50 * time.Millisecond
	// maxStateFile bounds the file of the last event.
	maxStateFile = 64 << 10
	// maxConsoles bounds how many terminals hear of an emergency.
	maxConsoles = 256
	// maxEmergency bounds an emergency text.
	maxEmergency = 4 << 10
	// consoleTimeout bounds the write to one terminal, which somebody may have
	// stopped.
	consoleTimeout = 2 * time.Second
)
