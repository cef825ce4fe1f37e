"""Make, train and judge the pocket voice that ships in ``backend/pocket``.

The way of the data: ``sentences`` -> ``render`` (flite and markers) -> ``shards`` ->
``train_codec`` -> ``encode_shards`` -> ``train_lm`` -> ``export``. ``make`` runs all of it in one
command on a machine with a GPU, ``judge`` measures the result.
"""
