package tunnel

import "time"

// Bounds on what comes from outside. Those that a product may want to change
// are defaults of ServerConfig and ClientConfig fields.
const (
	// maxHostLen is the longest host name that a forward may name: RFC 1035
	// section 3.1 ends names at 255 octets.
	maxHostLen = 255
	// maxConfigSize is the largest configuration that is carried.
	maxConfigSize = 16 << 20
	// maxAnswerText is the longest text that a router may answer with.
	maxAnswerText = 1024
	// maxQuoted caps what is quoted from the other side.
	maxQuoted = 128
	// maxRules is the largest number of rules in one list.
	maxRules = 1024
	// maxAuthTries is how many keys one connection may offer. An OpenSSH client
	// offers all of its agent's keys first, hence not one.
	maxAuthTries = 6

	defaultMaxConnections    = 10000
	defaultMaxUnauthed       = 512
	defaultMaxPerPeer        = 4
	defaultMaxChannels       = 64
	defaultMaxListeners      = 16
	defaultHandshakeTimeout  = 30 * time.Second
	defaultKeepAlive         = 15 * time.Second
	defaultServerKeepAlive   = 30 * time.Second
	defaultDialTimeout       = 10 * time.Second
	defaultInitializeTimeout = 5 * time.Minute
	defaultMinDelay          = time.Second
	defaultMaxDelay          = 20 * time.Second

	// goodSession is how long a session must have lasted for its end not to
	// count as one more failure in a row.
	goodSession = 30 * time.Second
	// answerGrace is how long a router that is about to reboot waits for the
	// conductor to have read its answer.
	answerGrace = 10 * time.Second
	// initializeRetry is the least time between two tries to initialize a
	// router within one connection.
	initializeRetry = time.Minute
	// refusalInterval is the least time between two log entries about
	// connections that did not authenticate.
	refusalInterval = 100 * time.Millisecond
	// acceptPause is the delay after a failed Accept, which mostly means that
	// file descriptors ran out.
	acceptPause = 50 * time.Millisecond
)
