package tpmproof

// Check is NewChallenge without the challenge, which is random.
func Check(e *Evidence) error {
	if err := checkAK(e.AK); err != nil {
		return err
	}
	if err := checkCreation(e); err != nil {
		return err
	}
	return e.params().CheckAKParameters()
}
